// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Gives each packet of a test run the next source address of a list, then calls the program under test.
 * A test run repeats one frame; a program that looks up its source would find the same cache lines for ever.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define SOURCES_MAX 65536
#define IPV4_SOURCE_AT 26
#define IPV6_SOURCE_AT 22

char LICENSE[] SEC("license") = "GPL";

struct address {
	__u32 word[4];
};

struct state {
	__u32 next;
	__u32 mask; /* sources in use - 1, a power of two less one */
	__u32 is_ipv6;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOURCES_MAX);
	__type(key, __u32);
	__type(value, struct address);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

SEC("xdp")
int next_source(struct xdp_md *ctx)
{
	__u32 *begin = (__u32 *)(long)ctx->data, *end = (__u32 *)(long)ctx->data_end, zero = 0, at;
	struct state *now = bpf_map_lookup_elem(&state, &zero);
	struct address *source;
	__u16 *field;

	if (!now)
		return XDP_ABORTED;
	at = now->next++ & now->mask;
	source = bpf_map_lookup_elem(&sources, &at);
	if (!source)
		return XDP_ABORTED;
	if (now->is_ipv6) {
		field = (__u16 *)((char *)begin + IPV6_SOURCE_AT);
		if ((void *)(field + 8) > (void *)end)
			return XDP_ABORTED;
		__builtin_memcpy(field, source, 16);
	} else {
		field = (__u16 *)((char *)begin + IPV4_SOURCE_AT);
		if ((void *)(field + 2) > (void *)end)
			return XDP_ABORTED;
		__builtin_memcpy(field, source, 4);
	}
	bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}
