/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The maps, which the daemon pins, so that they outlive it and the programs.  Sizes that the
 * configuration sets are set by the daemon before loading; those here are the defaults of x0d.h.
 * Included by xdp.bpf.c after the headers of the kernel and x0d.h.
 */
#ifndef XDP_MAPS_H
#define XDP_MAPS_H

/* What the root saw of the packet in hand, for the stages after it: a tail call keeps nothing else.
 * `event` is the record of the event stream but for `at` and `verdict`, so a sampled packet is copied
 * in one go. */
struct x0d_view {
	struct x0d_event event;
	struct x0d_policy policy; /* as read once for this packet */
	__u32 event_every;
	__u8 family; /* 4, 6, or 0: not IP, or the IP header is not whole */
	__u8 odd; /* fragment, options or extension headers: no probe looks like that */
	__u8 to_probe_port;
	__u8 stages; /* bit of each x0d_stage that has something to do */
	__u32 tick_ns;
	__be16 syn_port; /* where a SYN is going; 0: it is none */
	__u16 reserved;
};
_Static_assert(sizeof(struct x0d_view) == 80, "view");

/* The kernel finds the lock by its type, at the top level of a value's BTF. */
struct x0d_link_value {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 fields[14]; /* as struct x0d_link */
};
_Static_assert(sizeof(struct x0d_link_value) == sizeof(struct x0d_link), "link value");

struct x0d_bucket_value {
	struct bpf_spin_lock lock;
	__u32 tokens;
	__u64 refilled_at;
};
_Static_assert(sizeof(struct x0d_bucket_value) == sizeof(struct x0d_bucket), "bucket value");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_config);
} x0d_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_policy);
} x0d_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, X0D_STAGE_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} x0d_stages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_view);
} x0d_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_LINKS_MAX);
	__type(key, struct x0d_link_key);
	__type(value, struct x0d_link_value);
} x0d_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_LINKS_MAX);
	__type(key, struct x0d_link_key);
	__type(value, __u32);
} x0d_locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_INTERFACES_MAX);
	__type(key, __u32);
	__type(value, struct x0d_bucket_value);
} x0d_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_LOW_INTERFACES_MAX);
	__type(key, __u32);
	__type(value, struct x0d_interface);
} x0d_low SEC(".maps");

/* A value is multiplied by the CPUs and few interfaces exist: not preallocated. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_INTERFACES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct x0d_interface);
} x0d_interfaces SEC(".maps");

/* ---- deny-list ---- */

/* Inner maps may have another max_entries than these templates, but no other flags.  Sizes and not
 * types, because clang leaves the types of a template out of the debug data. */
#define DENY_LIST(name, map_type, key_bytes)                  \
	struct {                                              \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);     \
		__uint(max_entries, 2);                       \
		__type(key, __u32);                           \
		__array(values, struct {                      \
			__uint(type, map_type);               \
			__uint(max_entries, 1);               \
			__uint(map_flags, BPF_F_NO_PREALLOC); \
			__uint(key_size, key_bytes);          \
			__uint(value_size, sizeof(struct x0d_deny)); \
		});                                           \
	} name SEC(".maps")

DENY_LIST(x0d_deny4, BPF_MAP_TYPE_HASH, 4);
DENY_LIST(x0d_deny4_nets, BPF_MAP_TYPE_LPM_TRIE, sizeof(struct x0d_net4_key));
DENY_LIST(x0d_deny6, BPF_MAP_TYPE_HASH, 16);
DENY_LIST(x0d_deny6_nets, BPF_MAP_TYPE_LPM_TRIE, sizeof(struct x0d_net6_key));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * X0D_FILTER_6);
	__type(key, __u32);
	__type(value, struct x0d_deny_filter);
} x0d_deny_filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_DENY_DEFAULT);
	__type(key, __u32);
	__type(value, __u64);
} x0d_deny_hits SEC(".maps");

/* ---- limits and talkers ---- */

#define LIMIT_TRIE(name, key_type)                    \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);  \
		__uint(max_entries, X0D_LIMITS_MAX);  \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type);                \
		__type(value, __u32);                 \
	} name SEC(".maps")

LIMIT_TRIE(x0d_limit4, struct x0d_net4_key);
LIMIT_TRIE(x0d_limit6, struct x0d_net6_key);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, X0D_LIMITS_MAX);
	__type(key, __u32);
	__type(value, struct x0d_limit);
} x0d_limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_LIMITS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} x0d_limit_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, X0D_SOURCES_DEFAULT);
	__uint(key_size, 16);
	__uint(value_size, sizeof(struct x0d_source));
} x0d_sources SEC(".maps");

/* ---- limit on SYNs ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_syn_config);
} x0d_syn_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, X0D_SYN_SOURCES_MAX);
	__type(key, struct x0d_syn_key);
	__type(value, __u64);
} x0d_syn_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} x0d_syn_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, X0D_EVENT_BYTES_DEFAULT);
} x0d_events SEC(".maps");

#endif
