// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What x0d does with a packet as it leaves the driver: a root program and the stages behind it.
 *
 * The root looks at the packet once (xdp_view.h) and calls the stages through a PROG_ARRAY, so that
 * each can be replaced in microseconds without losing a packet: deny-list (xdp_deny.h), limits and
 * talkers (xdp_limit.h), probe reflector (xdp_probe.h), SYNs to our ports (xdp_syn.h).  A stage ends
 * the packet or calls the next; whoever ends it counts it (xdp_finish.h) per CPU by interface, class and
 * verdict.  A stage that has nothing to do with a packet is not called: the lists are empty, or it is no
 * probe, or no SYN to us.
 *
 * Only what the lists name, probes, and SYNs to our ports beyond their rate are ever dropped: what is
 * malformed goes to the network stack, which knows why it drops.
 *
 * Every program is there twice: for whole frames, and for multi-buffer frames (`_frags`).  The kernel
 * allows no PROG_ARRAY with both.
 *
 * Only uapi headers: nothing here depends on the layout of a kernel, so the object needs no BTF.
 * Limits: kernel 5.10 for root, deny and probe, 5.12 for limit and SYNs; 5.18 for multi-buffer frames.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "x0d.h"
#include "xdp_deny.h"
#include "xdp_finish.h"
#include "xdp_limit.h"
#include "xdp_maps.h"
#include "xdp_probe.h"
#include "xdp_syn.h"
#include "xdp_view.h"

char LICENSE[] SEC("license") = "GPL";

/* Read from the file by the daemon before it loads anything; libbpf passes the section over. */
const __u32 x0d_layout_version SEC("x0d_layout") = X0D_LAYOUT_VERSION;

static __always_inline __u8 choose_stages(const struct x0d_view *view, const struct x0d_config *config)
{
	const __u8 kinds = view->family == 4 ? X0D_DENY_4 | X0D_DENY_4_NETS : X0D_DENY_6 | X0D_DENY_6_NETS;
	__u8 stages = 0;

	if (!view->family)
		return 0;
	if (view->policy.deny_kinds & kinds)
		stages |= STAGE_BIT(X0D_STAGE_DENY);
	if (view->policy.limit_generation || config->talkers)
		stages |= STAGE_BIT(X0D_STAGE_LIMIT);
	/* A tagged frame belongs to a VLAN device, which sees it again without its tag. */
	if (view->to_probe_port && !view->event.tags)
		stages |= STAGE_BIT(X0D_STAGE_PROBE);
	if (view->syn_port && is_limited_port(view->syn_port))
		stages |= STAGE_BIT(X0D_STAGE_SYN);
	return stages;
}

static __always_inline int run_root(struct xdp_md *ctx, __u32 length)
{
	__u32 zero = 0;
	struct x0d_config *config = bpf_map_lookup_elem(&x0d_config, &zero);
	struct x0d_policy *policy = bpf_map_lookup_elem(&x0d_policy, &zero);
	struct x0d_view *view = get_view();

	if (!config || !policy || !view)
		return XDP_PASS;
	view->event.ifindex = ctx->ingress_ifindex;
	view->event.length = length;
	view->event_every = config->event_every;
	view->tick_ns = config->tick_ns;
	*(__u64 *)&view->policy = *(volatile __u64 *)policy; /* one read: all of it is of one moment */
	view_packet(view, (void *)(long)ctx->data, (void *)(long)ctx->data_end, bpf_htons(config->probe_port));
	view->stages = choose_stages(view, config);
	return call_stages(ctx, view, 0);
}

#define PROGRAM(name, call, frags_call)       \
	SEC("xdp")                            \
	int name(struct xdp_md *ctx)          \
	{                                     \
		return call;                  \
	}                                     \
	SEC("xdp.frags")                      \
	int name##_frags(struct xdp_md *ctx)  \
	{                                     \
		return frags_call;            \
	}

PROGRAM(x0d_root, run_root(ctx, ctx->data_end - ctx->data), run_root(ctx, bpf_xdp_get_buff_len(ctx)))
PROGRAM(x0d_deny, run_deny(ctx), run_deny(ctx))
PROGRAM(x0d_limit, run_limit(ctx), run_limit(ctx))
PROGRAM(x0d_probe, run_probe(ctx), run_probe(ctx))
PROGRAM(x0d_syn, run_syn(ctx), run_syn(ctx))
