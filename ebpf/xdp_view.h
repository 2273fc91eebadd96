/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Looking at a packet: its class, and whether it is UDP to a port.  Nothing is changed or counted here.
 */
#ifndef XDP_VIEW_H
#define XDP_VIEW_H

#define VLAN_TAGS_MAX 2
#define IP_FRAGMENT_MASK 0x3fff /* more fragments, and the offset */
#define IP_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8

struct view {
	__u32 class;
	__u32 family; /* AF-less: 4, 6, or 0 for neither */
	bool tagged;
	bool odd; /* fragment or options: no probe looks like that */
	bool to_probe_port;
};

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

struct ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

static __always_inline void view_transport(struct view *view, __u8 protocol, __u8 icmp, void *header,
					   void *end, __be16 probe_port)
{
	struct udphdr *udp = header;

	if (protocol == IPPROTO_TCP) {
		view->class = X0D_CLASS_TCP;
	} else if (protocol == icmp) {
		view->class = X0D_CLASS_ICMP;
	} else if (protocol != IPPROTO_UDP) {
		view->class = X0D_CLASS_IP_OTHER;
	} else if ((void *)(udp + 1) > end) {
		view->class = X0D_CLASS_MALFORMED;
	} else {
		view->class = X0D_CLASS_UDP;
		view->to_probe_port = udp->dest == probe_port;
	}
}

static __always_inline void view_ipv4(struct view *view, void *header, void *end, __be16 probe_port)
{
	struct iphdr *ip = header;
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		goto malformed;
	length = ip->ihl * 4;
	if (header + length > end)
		goto malformed;
	view->family = 4;
	if (ip->frag_off & bpf_htons(IP_OFFSET_MASK)) {
		view->class = X0D_CLASS_FRAGMENT;
		return;
	}
	view->odd = length != sizeof(*ip) || ip->frag_off & bpf_htons(IP_FRAGMENT_MASK);
	view_transport(view, ip->protocol, IPPROTO_ICMP, header + length, end, probe_port);
	return;
malformed:
	view->class = X0D_CLASS_MALFORMED;
}

static __always_inline void view_ipv6(struct view *view, void *header, void *end, __be16 probe_port)
{
	struct ipv6hdr *ip = header;
	struct ipv6_fragment *fragment = (void *)(ip + 1);

	if ((void *)(ip + 1) > end || ip->version != 6)
		goto malformed;
	view->family = 6;
	if (ip->nexthdr != IPPROTO_FRAGMENT) {
		view_transport(view, ip->nexthdr, IPPROTO_ICMPV6, ip + 1, end, probe_port);
		return;
	}
	if ((void *)(fragment + 1) > end)
		goto malformed;
	if (fragment->offset & bpf_htons(IPV6_OFFSET_MASK)) {
		view->class = X0D_CLASS_FRAGMENT;
		return;
	}
	view->odd = true;
	view_transport(view, fragment->next_header, IPPROTO_ICMPV6, fragment + 1, end, probe_port);
	return;
malformed:
	view->class = X0D_CLASS_MALFORMED;
}

static __always_inline void view_packet(struct view *view, void *data, void *end, __be16 probe_port)
{
	struct ethhdr *ethernet = data;
	void *header = ethernet + 1;
	__be16 protocol;

	if (header > end) {
		view->class = X0D_CLASS_MALFORMED;
		return;
	}
	protocol = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag = header;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		view->tagged = true;
		if ((void *)(tag + 1) > end) {
			view->class = X0D_CLASS_MALFORMED;
			return;
		}
		protocol = tag->protocol;
		header = tag + 1;
	}
	if (protocol == bpf_htons(ETH_P_IP))
		view_ipv4(view, header, end, probe_port);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		view_ipv6(view, header, end, probe_port);
	else
		view->class = protocol == bpf_htons(ETH_P_ARP) ? X0D_CLASS_ARP : X0D_CLASS_OTHER;
}

#endif
