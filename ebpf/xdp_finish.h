/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * How a packet goes from stage to stage, and its end: counted once, and perhaps shown as an event.
 *
 * A stage is called only if the root found something for it to do, and an empty slot falls through
 * to the next.  The index is a constant, so the kernel makes it a direct jump (5.5).
 * Floor: 5.8, for the ring buffer.
 */
#ifndef XDP_FINISH_H
#define XDP_FINISH_H

#include "xdp_maps.h"

static __always_inline struct x0d_view *get_view(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&x0d_scratch, &zero);
}

static __always_inline struct x0d_interface *get_counters(const struct x0d_view *view)
{
	struct x0d_interface *counters = bpf_map_lookup_elem(&x0d_low, &view->event.ifindex);

	return counters && counters->present ? counters : bpf_map_lookup_elem(&x0d_interfaces, &view->event.ifindex);
}

static __always_inline void show_event(struct x0d_view *view, struct x0d_interface *counters, __u8 class, __u8 verdict)
{
	struct x0d_event *event;

	counters->event_tick = 0;
	event = bpf_ringbuf_reserve(&x0d_events, sizeof(*event), 0);
	if (!event) {
		counters->events_lost++;
		return;
	}
	*event = view->event;
	event->at = bpf_ktime_get_ns();
	event->class = class;
	event->verdict = verdict;
	counters->events_sent++;
	bpf_ringbuf_submit(event, 0);
}

/* Counts, and returns what XDP is to do.  `probe_event` is X0D_PROBE_EVENTS where it was no probe. */
static __always_inline int finish_as(struct x0d_view *view, __u32 class, __u32 verdict, __u32 probe_event)
{
	struct x0d_interface *counters = get_counters(view);
	struct x0d_counter *counter;

	if (counters && class < X0D_CLASSES && verdict < X0D_VERDICTS) {
		counter = &counters->packets[class][verdict];
		counter->packets++;
		counter->bytes += view->event.length;
		if (probe_event < X0D_PROBE_EVENTS)
			counters->probes[probe_event]++;
		if (view->event_every && ++counters->event_tick >= view->event_every)
			show_event(view, counters, class, verdict);
	}
	return verdict == X0D_VERDICT_PASS ? XDP_PASS : verdict == X0D_VERDICT_REFLECT ? XDP_TX : XDP_DROP;
}

static __always_inline int finish(struct x0d_view *view, __u32 verdict)
{
	return finish_as(view, view->event.class, verdict, X0D_PROBE_EVENTS);
}

#define STAGE_BIT(stage) (1 << (stage))

/* Calls the next stage from `first` on that is wanted and there; if there is none, the packet passes. */
static __always_inline int call_stages(struct xdp_md *ctx, struct x0d_view *view, const __u32 first)
{
	const __u8 wanted = view->stages;

	if (first <= X0D_STAGE_DENY && wanted & STAGE_BIT(X0D_STAGE_DENY))
		bpf_tail_call(ctx, &x0d_stages, X0D_STAGE_DENY);
	if (first <= X0D_STAGE_LIMIT && wanted & STAGE_BIT(X0D_STAGE_LIMIT))
		bpf_tail_call(ctx, &x0d_stages, X0D_STAGE_LIMIT);
	if (first <= X0D_STAGE_PROBE && wanted & STAGE_BIT(X0D_STAGE_PROBE))
		bpf_tail_call(ctx, &x0d_stages, X0D_STAGE_PROBE);
	if (first <= X0D_STAGE_SYN && wanted & STAGE_BIT(X0D_STAGE_SYN))
		bpf_tail_call(ctx, &x0d_stages, X0D_STAGE_SYN);
	return finish(view, X0D_VERDICT_PASS);
}

#endif
