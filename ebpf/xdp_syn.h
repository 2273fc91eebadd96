/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The SYN stage: how many connections a second a source may begin with our own ports.
 *
 * Each costs the daemon a TLS handshake; a hostile host must not keep it busy with them.  Each source has a
 * token bucket.  What is beyond it is dropped here; the sender's TCP asks again a second later.  Segments of
 * a connection that exists are no SYNs and are never looked at.
 *
 * A source is an interface and an address, to all of our ports together.  The interface, because a host on
 * one link must not use up the tokens of a neighbour on another by writing that neighbour's address, and
 * because a tagged frame comes by twice, on its device and on the VLAN's.  Of an IPv6 address the first 64
 * bits count: a host may take any address of its /64 (RFC 4862), so by whole addresses it had 2^64 buckets.
 * Link-local addresses are of one /64 (RFC 4291) and count as it, whatever stands in the 54 bits that ought
 * to be zero: strangers of one link share a bucket.
 *
 * A link-local neighbour (x0d_links) counts whole, as every IPv4 address does: strangers cannot spend its
 * tokens, but by writing its address on its interface.  A device that carries VLANs does not know the
 * neighbours of these: there they share the bucket of the strangers.
 *
 * Who writes ever new source addresses has a bucket for each and gets through; against that are the SYN
 * cookies of the kernel, and x0d's limit of handshakes under way.
 * Floor: 5.12, for the compare and exchange.
 */
#ifndef XDP_SYN_H
#define XDP_SYN_H

#include "xdp_limit.h"
#include "xdp_view.h"

#define FAMILY_INET 2 /* AF_INET and AF_INET6 are in no header of the kernel's uapi */
#define FAMILY_INET6 10
#define LINK_LOCAL_START 0xfe80000000000000ULL /* of fe80::/10 */

/* Asked by the root for every SYN: is it to one of our ports, and is there a limit. */
static __always_inline bool is_limited_port(__be16 port)
{
	__u32 zero = 0;
	const struct x0d_syn_config *config = bpf_map_lookup_elem(&x0d_syn_config, &zero);

	if (!config || !config->interval_ns)
		return false;
#pragma unroll
	for (int i = 0; i < X0D_SYN_PORTS_MAX; i++) {
		if (config->ports[i] == port)
			return true;
	}
	return false;
}

/* Whether the packet goes on to another host, which may have the same ports.  The kernel's routes tell, and
 * with them which addresses are ours; a host that forwards nothing has no other packets than its own. */
static __always_inline bool is_in_transit(struct xdp_md *ctx, const struct x0d_view *view)
{
	struct bpf_fib_lookup route = { .ifindex = view->event.ifindex, .l4_protocol = IPPROTO_TCP };
	long answer;

	if (view->family == 4) {
		route.family = FAMILY_INET;
		route.ipv4_src = *(const __be32 *)(view->event.source + 12);
		route.ipv4_dst = *(const __be32 *)(view->event.destination + 12);
	} else {
		route.family = FAMILY_INET6;
		copy_address((__u8 *)route.ipv6_src, view->event.source);
		copy_address((__u8 *)route.ipv6_dst, view->event.destination);
	}
	answer = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	return answer == BPF_FIB_LKUP_RET_SUCCESS || answer >= BPF_FIB_LKUP_RET_UNSUPP_LWT;
}

static __always_inline bool is_neighbour(const struct x0d_view *view)
{
	struct x0d_link_key neighbour = { .ifindex = view->event.ifindex };

	copy_address(neighbour.address, view->event.source);
	return bpf_map_lookup_elem(&x0d_links, &neighbour);
}

static __always_inline void name_source(struct x0d_syn_key *key, const struct x0d_view *view)
{
	const __u8 *address = view->event.source;
	__u64 *word = (__u64 *)key->address;

	key->ifindex = view->event.ifindex;
	copy_address(key->address, address);
	if (view->family == 4)
		return;
	if (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) {
		if (is_neighbour(view))
			return;
		word[0] = bpf_cpu_to_be64(LINK_LOCAL_START);
	}
	word[1] = 0;
}

/* Whether the source has a token left, which it then has spent. */
static __always_inline bool take_syn_token(const struct x0d_view *view, const struct x0d_syn_config *config)
{
	const __u64 interval_ns = config->interval_ns, now = bpf_ktime_get_ns();
	struct x0d_syn_key key = {};
	__u64 *due_at, never = 0;

	name_source(&key, view);
	due_at = bpf_map_lookup_elem(&x0d_syn_sources, &key);
	if (!due_at) {
		/* Another CPU may have made it first. */
		bpf_map_update_elem(&x0d_syn_sources, &key, &never, BPF_NOEXIST);
		due_at = bpf_map_lookup_elem(&x0d_syn_sources, &key);
		if (!due_at)
			return true;
	}
	return conforms(due_at, interval_ns, config->tolerance_ns, now);
}

static __always_inline int run_syn(struct xdp_md *ctx)
{
	struct x0d_view *view = get_view();
	struct x0d_syn_config *config;
	__u32 zero = 0;
	__u64 *drops;

	if (!view)
		return XDP_PASS;
	config = bpf_map_lookup_elem(&x0d_syn_config, &zero);
	if (!config || is_in_transit(ctx, view) || take_syn_token(view, config))
		return call_stages(ctx, view, X0D_STAGE_SYN + 1);
	drops = bpf_map_lookup_elem(&x0d_syn_drops, &zero);
	if (drops)
		++*drops;
	return finish(view, X0D_VERDICT_LIMIT);
}

#endif
