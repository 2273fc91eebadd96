/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The maps of trace.bpf.c and the counting in them.  Nothing is pinned: tracing ends with the daemon.  All are
 * preallocated, because a tracepoint may interrupt the allocator.
 */
#ifndef X0D_TRACE_MAPS_H
#define X0D_TRACE_MAPS_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_trace_config);
} x0d_t_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_TRACE_TABLES);
	__type(key, __u32);
	__type(value, __u64);
} x0d_t_past SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_TRACE_REASONS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} x0d_t_drops SEC(".maps");

struct x0d_trace_peers {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_TRACE_PEERS_MAX);
	__type(key, struct x0d_trace_peer);
	__type(value, __u64);
};
struct x0d_trace_peers x0d_t_retrans SEC(".maps");
struct x0d_trace_peers x0d_t_rst_out SEC(".maps");
struct x0d_trace_peers x0d_t_rst_in SEC(".maps");

/* By (family * STATES + old) * STATES + new. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_TRACE_FAMILIES * X0D_TRACE_STATES * X0D_TRACE_STATES);
	__type(key, __u32);
	__type(value, __u64);
} x0d_t_states SEC(".maps");

/* When a thread, by its id, became ready to run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_TRACE_QUEUED_MAX);
	__type(key, __u32);
	__type(value, __u64);
} x0d_t_queued SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_trace_histogram);
} x0d_t_runq SEC(".maps");

static __always_inline void count_key(void *map, const void *key, __u32 table)
{
	__u64 *count = bpf_map_lookup_elem(map, key), one = 1;

	if (count) {
		*count += 1;
		return;
	}
	if (bpf_map_update_elem(map, key, &one, BPF_NOEXIST) == 0)
		return;
	/* Another CPU has made it meanwhile, or there is no room. */
	count = bpf_map_lookup_elem(map, key);
	if (!count)
		count = bpf_map_lookup_elem(&x0d_t_past, &table);
	if (count)
		*count += 1;
}

#endif
