/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The wires of a lab.  A link between two nodes is two veth pairs whose inner ends, in the wire
 * namespace, are joined by `wire_forward`, on the ingress of both.  All faults are made here, so
 * they treat every frame alike, answers by XDP_TX included, and no program of the nodes is in the way.
 *
 * Maps are keyed by the interface that a frame comes in on, which stands for one direction of one
 * link.  Faults are written by user space alone and counters by the kernel alone.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define DIRECTIONS_MAX 4096

struct wire_fault {
	__u64 drop_share; /* of 2^32: 0 nothing, 2^32 everything */
	__u32 length_min; /* only frames of at least this many bytes are dropped */
	__u32 out_ifindex; /* the wire's other end */
};
_Static_assert(sizeof(struct wire_fault) == 16, "fault");

struct wire_counter {
	__u64 packets; /* that came in */
	__u64 bytes;
	__u64 dropped; /* by the fault */
};
_Static_assert(sizeof(struct wire_counter) == 24, "counter");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DIRECTIONS_MAX);
	__type(key, __u32);
	__type(value, struct wire_fault);
} wire_faults SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DIRECTIONS_MAX);
	__type(key, __u32);
	__type(value, struct wire_counter);
} wire_counters SEC(".maps");

SEC("tc")
int wire_forward(struct __sk_buff *skb)
{
	__u32 direction = skb->ifindex;
	struct wire_fault *fault = bpf_map_lookup_elem(&wire_faults, &direction);
	struct wire_counter *counter = bpf_map_lookup_elem(&wire_counters, &direction);

	if (!fault || !counter)
		return TC_ACT_SHOT;
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, skb->len);
	if (skb->len >= fault->length_min && bpf_get_prandom_u32() < fault->drop_share) {
		__sync_fetch_and_add(&counter->dropped, 1);
		return TC_ACT_SHOT;
	}
	return bpf_redirect(fault->out_ifindex, 0);
}

/* A veth takes the frames that its peer sends by XDP_TX only where it runs a native XDP program. */
SEC("xdp")
int wire_accept(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
