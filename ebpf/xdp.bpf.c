// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What x0d does with a packet as it leaves the driver: count it, and answer or record a probe.
 *
 * Every packet is put in a class (x0d_class), gets a verdict (x0d_verdict) and is counted per CPU
 * by interface, class and verdict.  Nothing but a probe is ever dropped: what is malformed goes to
 * the network stack, which knows why it drops.
 *
 * A packet is a probe if it is UDP to the probe port and to an address that the daemon has named
 * as ours on this interface (x0d_locals).  The same port in transit is somebody else's packet.
 * A request of a neighbour is turned round in place and sent back (XDP_TX); a reply to one of our
 * own requests is written into the neighbour's record (x0d_links) and ends here.  So both go on
 * while the daemon is stopped, and no daemon's scheduling is in a round-trip time.
 *
 * Probes are of one shape: untagged, no IP options or extension headers, no fragments, payload of
 * exactly sizeof(struct x0d_probe).  That keeps every offset a constant.  Anything else that comes
 * to a probe port of ours is counted as malformed and dropped.  The UDP checksum of a probe is not
 * checked: veth hands over packets whose checksum their sender has left to the hardware.
 *
 * Only uapi headers: nothing here depends on the layout of a kernel, so the object needs no BTF.
 * Limits: kernel 5.10 for the plain program, 5.18 for the one that takes multi-buffer frames.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "x0d.h"
#include "xdp_maps.h"
#include "xdp_probe.h"
#include "xdp_view.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline int handle_packet(struct xdp_md *ctx, __u64 bytes)
{
	__u32 zero = 0, verdict = X0D_VERDICT_PASS, event;
	struct x0d_config *config = bpf_map_lookup_elem(&x0d_config, &zero);
	struct view view = {};

	if (!config)
		return XDP_PASS;
	view_packet(&view, (void *)(long)ctx->data, (void *)(long)ctx->data_end, bpf_htons(config->probe_port));
	/* A tagged frame belongs to a VLAN device, which sees it again without its tag. */
	if (view.to_probe_port && !view.tagged) {
		event = handle_probe(ctx, &view, config);
		if (event < X0D_PROBE_EVENTS) {
			count_event(ctx->ingress_ifindex, event);
			view.class = X0D_CLASS_PROBE;
			verdict = event == X0D_PROBE_ANSWERED ? X0D_VERDICT_REFLECT :
				  event == X0D_PROBE_ACCEPTED || event == X0D_PROBE_DUPLICATE ? X0D_VERDICT_CONSUME :
												X0D_VERDICT_DROP;
		}
	}
	count_packet(ctx->ingress_ifindex, view.class, verdict, bytes);
	return verdict == X0D_VERDICT_PASS ? XDP_PASS : verdict == X0D_VERDICT_REFLECT ? XDP_TX : XDP_DROP;
}

SEC("xdp")
int x0d_xdp(struct xdp_md *ctx)
{
	return handle_packet(ctx, ctx->data_end - ctx->data);
}

SEC("xdp.frags")
int x0d_xdp_frags(struct xdp_md *ctx)
{
	return handle_packet(ctx, bpf_xdp_get_buff_len(ctx));
}
