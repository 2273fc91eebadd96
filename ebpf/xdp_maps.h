/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The maps, which the daemon pins, so that they outlive it and the program; and the counting in them.
 * Included by xdp.bpf.c after the headers of the kernel and x0d.h.
 */
#ifndef XDP_MAPS_H
#define XDP_MAPS_H

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

/* Few of the possible keys occur, and a value is multiplied by the CPUs: not preallocated. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_COUNTERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct x0d_counter_key);
	__type(value, struct x0d_counter);
} x0d_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_INTERFACES_MAX * X0D_PROBE_EVENTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct x0d_probe_event_key);
	__type(value, __u64);
} x0d_probe_events SEC(".maps");

/* ---- counting ---- */

static __always_inline void count_packet(__u32 ifindex, __u32 class, __u32 verdict, __u64 bytes)
{
	struct x0d_counter_key key = { .ifindex = ifindex, .class = class, .verdict = verdict };
	struct x0d_counter *counter = bpf_map_lookup_elem(&x0d_counters, &key);

	if (!counter) {
		struct x0d_counter zero = {};

		/* Another CPU may have made it first; a full map leaves the packet uncounted. */
		bpf_map_update_elem(&x0d_counters, &key, &zero, BPF_NOEXIST);
		counter = bpf_map_lookup_elem(&x0d_counters, &key);
		if (!counter)
			return;
	}
	counter->packets++;
	counter->bytes += bytes;
}

static __always_inline void count_event(__u32 ifindex, __u32 event)
{
	struct x0d_probe_event_key key = { .ifindex = ifindex, .event = event };
	__u64 *count = bpf_map_lookup_elem(&x0d_probe_events, &key);

	if (!count) {
		__u64 zero = 0;

		bpf_map_update_elem(&x0d_probe_events, &key, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&x0d_probe_events, &key);
		if (!count)
			return;
	}
	(*count)++;
}

#endif
