/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The root's look at a packet: class, addresses, ports, whether it is UDP to the probe port or a SYN.
 *
 * Ethernet, up to two VLAN tags (a third makes the class `other`), IPv4 with options, IPv6 with up to
 * six extension headers (more make it `ip_other`), fragments, and whether the header of TCP, UDP or
 * ICMP is there.  Addresses count as known once the whole IP header is there, also when what follows
 * is cut.  An IPv6 packet from ::ffff:a.b.c.d is malformed (the stack drops it): it must not pass for
 * the IPv4 source that x0d_sources writes so.  Nothing in the packet is changed.
 * Floor: 5.3; kernels before know no loops, these are unrolled.
 */
#ifndef XDP_VIEW_H
#define XDP_VIEW_H

#include "xdp_maps.h"

#define VLAN_TAGS_MAX 2
#define IPV6_EXTENSIONS_MAX 6
#define IP_FRAGMENT_MASK 0x3fff /* more fragments, and the offset */
#define IP_OFFSET_MASK 0x1fff
#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_BYTES_MIN 8 /* of all but the last; ports are in them */
#define IPV6_OFFSET_MASK 0xfff8
#define TCP_HEADER_BYTES 20
#define ICMP_HEADER_BYTES 8
#define IPPROTO_HIP 139
#define IPPROTO_SHIM6 140

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

struct ipv6_extension { /* the least of each kind */
	__u8 next_header;
	__u8 length; /* in 8 bytes without the first 8; AH: in 4 bytes without the first 8 */
	__be16 offset; /* of a fragment header */
	__be32 id;
};

/* In words of 8 bytes: the tables compare keys so, and a load that spans two stores waits for both. */
static __always_inline void map_ipv4(__u8 *address, __be32 ipv4)
{
	__u64 *word = (__u64 *)address;

	word[0] = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	word[1] = (__u64)ipv4 << 32 | bpf_htonl(0xffff);
#else
	word[1] = 0xffffULL << 32 | ipv4;
#endif
}

static __always_inline void copy_address(__u8 *address, const void *from)
{
	((__u64 *)address)[0] = ((const __u64 *)from)[0];
	((__u64 *)address)[1] = ((const __u64 *)from)[1];
}

static __always_inline bool is_mapped_ipv4(const void *address)
{
	return !((const __u64 *)address)[0] && ((const __u32 *)address)[2] == bpf_htonl(0xffff);
}

/* Returns the class. */
static __always_inline __u8 view_transport(struct x0d_view *view, __u8 protocol, __u8 icmp, void *header, void *end,
					   __be16 probe_port)
{
	struct udphdr *udp = header; /* TCP has its ports there too */

	if (protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return X0D_CLASS_MALFORMED;
		view->to_probe_port = udp->dest == probe_port;
	} else if (protocol == IPPROTO_TCP) {
		if (header + TCP_HEADER_BYTES > end)
			return X0D_CLASS_MALFORMED;
		if (((struct tcphdr *)header)->syn && !((struct tcphdr *)header)->ack)
			view->syn_port = udp->dest;
	} else if (protocol == icmp) {
		return header + ICMP_HEADER_BYTES > end ? X0D_CLASS_MALFORMED : X0D_CLASS_ICMP;
	} else {
		return X0D_CLASS_IP_OTHER;
	}
	view->event.source_port = udp->source;
	view->event.destination_port = udp->dest;
	return protocol == IPPROTO_UDP ? X0D_CLASS_UDP : X0D_CLASS_TCP;
}

static __always_inline __u8 view_ipv4(struct x0d_view *view, void *header, void *end, __be16 probe_port)
{
	struct iphdr *ip = header;
	__u32 length;
	__u8 class;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return X0D_CLASS_MALFORMED;
	length = ip->ihl * 4;
	if (header + length > end)
		return X0D_CLASS_MALFORMED;
	view->family = 4;
	map_ipv4(view->event.source, ip->saddr);
	map_ipv4(view->event.destination, ip->daddr);
	view->event.protocol = ip->protocol;
	if (ip->frag_off & bpf_htons(IP_OFFSET_MASK))
		return X0D_CLASS_FRAGMENT;
	view->odd = length != sizeof(*ip) || ip->frag_off & bpf_htons(IP_FRAGMENT_MASK);
	class = view_transport(view, ip->protocol, IPPROTO_ICMP, header + length, end, probe_port);
	/* A first fragment that ends before the flags may become a SYN once it is put together, and no honest
	 * one is so short (RFC 1858): it is taken for one.  In IPv6 the stack drops it (RFC 8200). */
	if (class == X0D_CLASS_MALFORMED && ip->protocol == IPPROTO_TCP && ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS) &&
	    header + length + IP_FRAGMENT_BYTES_MIN <= end)
		view->syn_port = ((struct tcphdr *)(header + length))->dest;
	return class;
}

static __always_inline bool is_extension(__u8 next_header)
{
	switch (next_header) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
		return true;
	}
	return false;
}

static __always_inline __u8 view_ipv6(struct x0d_view *view, void *header, void *end, __be16 probe_port)
{
	struct ipv6hdr *ip = header;
	struct ipv6_extension *extension;
	__u8 protocol;

	if ((void *)(ip + 1) > end || ip->version != 6 || is_mapped_ipv4(&ip->saddr))
		return X0D_CLASS_MALFORMED;
	view->family = 6;
	copy_address(view->event.source, &ip->saddr);
	copy_address(view->event.destination, &ip->daddr);
	protocol = ip->nexthdr;
	header = ip + 1;
#pragma unroll
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (!is_extension(protocol))
			break;
		view->odd = 1;
		view->event.protocol = protocol;
		extension = header;
		if ((void *)(extension + 1) > end)
			return X0D_CLASS_MALFORMED;
		if (protocol == IPPROTO_FRAGMENT) {
			header += sizeof(*extension);
			if (extension->offset & bpf_htons(IPV6_OFFSET_MASK)) {
				view->event.protocol = extension->next_header;
				return X0D_CLASS_FRAGMENT;
			}
		} else if (protocol == IPPROTO_AH) {
			header += (extension->length + 2) * 4;
		} else {
			header += (extension->length + 1) * 8;
		}
		if (header > end)
			return X0D_CLASS_MALFORMED;
		protocol = extension->next_header;
	}
	view->event.protocol = protocol;
	if (is_extension(protocol))
		return X0D_CLASS_IP_OTHER;
	return view_transport(view, protocol, IPPROTO_ICMPV6, header, end, probe_port);
}

/* Fills all of the view but lengths, interface and policy. */
static __always_inline void view_packet(struct x0d_view *view, void *data, void *end, __be16 probe_port)
{
	struct ethhdr *ethernet = data;
	void *header = ethernet + 1;
	__u8 class = X0D_CLASS_MALFORMED;
	__be16 protocol;

	view->family = view->odd = view->to_probe_port = 0;
	view->syn_port = 0;
	*(__u64 *)&view->event.source_port = 0; /* and all that is behind it in the event */
	if (header > end)
		goto classified;
	protocol = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag = header;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		view->event.tags = i + 1;
		if ((void *)(tag + 1) > end)
			goto classified;
		protocol = tag->protocol;
		header = tag + 1;
	}
	if (protocol == bpf_htons(ETH_P_IP))
		class = view_ipv4(view, header, end, probe_port);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		class = view_ipv6(view, header, end, probe_port);
	else
		class = protocol == bpf_htons(ETH_P_ARP) ? X0D_CLASS_ARP : X0D_CLASS_OTHER;
classified:
	view->event.class = class;
	if (!view->family) {
		__builtin_memset(view->event.source, 0, sizeof(view->event.source));
		__builtin_memset(view->event.destination, 0, sizeof(view->event.destination));
	}
}

#endif
