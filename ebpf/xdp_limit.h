/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The limit stage: counts every source (talkers), and keeps each to its rate.
 *
 * The rate is that of the source on the whole host: its schedule is one word of x0d_sources that all
 * CPUs move on by compare and exchange.  Which limit holds for a source is looked up once in a
 * generation of the limits and remembered with it.  A source that was forgotten (the table keeps the
 * latest) begins anew with a full burst.
 *
 * Most schedules are kept by jiffies, which cost one load.  They begin elsewhere than CLOCK_MONOTONIC,
 * so a schedule that was left behind on the other clock is either long past (the source begins with a
 * full burst) or far ahead (it begins with an empty one): see adopt_limit and refuse.
 * Floor: 5.12, for the compare and exchange; 5.5 for the jiffies.
 */
#ifndef XDP_LIMIT_H
#define XDP_LIMIT_H

#include "xdp_finish.h"

#define EXCHANGE_TRIES 3
/* No schedule is further ahead than its limit lets it get by as much as this, not even of a packet that
 * was interrupted between reading the clock and looking. */
#define AHEAD_MAX_NS 1000000000ULL

static __always_inline __u32 find_limit(const struct x0d_view *view)
{
	struct x0d_net4_key key4 = { .prefix_length = 32 };
	struct x0d_net6_key key6 = { .prefix_length = 128 };
	__u32 *index;

	if (view->family == 4) {
		__builtin_memcpy(key4.address, view->event.source + 12, sizeof(key4.address));
		index = bpf_map_lookup_elem(&x0d_limit4, &key4);
	} else {
		__builtin_memcpy(key6.address, view->event.source, sizeof(key6.address));
		index = bpf_map_lookup_elem(&x0d_limit6, &key6);
	}
	return index ? *index + 1 : 0;
}

/* Finds or makes the record of the packet's source; NULL if it needs none, or there is no room. */
static __always_inline struct x0d_source *get_source(const struct x0d_view *view)
{
	const __u32 generation = view->policy.limit_generation;
	struct x0d_source *source = bpf_map_lookup_elem(&x0d_sources, view->event.source);
	struct x0d_source fresh = {};
	struct x0d_config *config;
	__u32 zero = 0, limit;

	if (source)
		return source;
	config = bpf_map_lookup_elem(&x0d_config, &zero);
	limit = generation ? find_limit(view) : 0;
	if (!limit && (!config || !config->talkers))
		return NULL;
	fresh.limit = (__u64)generation << 32 | limit;
	/* Another CPU may have made it first. */
	bpf_map_update_elem(&x0d_sources, view->event.source, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&x0d_sources, view->event.source);
}

static __always_inline __u64 read_clock(const struct x0d_view *view, const struct x0d_limit *limit)
{
	const __u64 tick_ns = view->tick_ns;

	if (tick_ns && limit->tolerance_ns >= X0D_LIMIT_TICKS_MIN * tick_ns)
		return bpf_jiffies64() * tick_ns;
	return bpf_ktime_get_ns();
}

/* A schedule that another limit left behind, perhaps on the other clock, may lie further ahead than this
 * one ever lets it. */
static __always_inline void adopt_limit(const struct x0d_view *view, struct x0d_source *source, __u32 index)
{
	const __u32 at = index - 1;
	struct x0d_limit *limit = index ? bpf_map_lookup_elem(&x0d_limits, &at) : NULL;
	__u64 latest;

	if (limit) {
		latest = read_clock(view, limit) + limit->tolerance_ns;
		if (source->due_at > latest)
			source->due_at = latest;
	}
	source->limit = (__u64)view->policy.limit_generation << 32 | index;
}

/* The limit that holds for the source now, its index + 1 in `chosen`; NULL if there is none. */
static __always_inline struct x0d_limit *choose_limit(const struct x0d_view *view, struct x0d_source *source,
						      __u32 *chosen)
{
	__u64 known = source->limit;
	__u32 index = known;

	if (known >> 32 != view->policy.limit_generation) {
		index = find_limit(view);
		adopt_limit(view, source, index);
	}
#pragma unroll
	for (int i = 0; i <= X0D_LIMIT_FALLBACKS_MAX; i++) {
		const __u32 at = index - 1;
		struct x0d_limit *limit = index ? bpf_map_lookup_elem(&x0d_limits, &at) : NULL;

		if (!limit)
			return NULL;
		if (!limit->expires_at || bpf_ktime_get_ns() < limit->expires_at) {
			*chosen = at;
			return limit;
		}
		index = limit->fallback;
		adopt_limit(view, source, index);
	}
	return NULL;
}

/* The packet does not conform.  A packet that was under way while the limits changed may have moved the
 * schedule by the clock of its former limit, after another has adopted the new one: put right here. */
static __always_inline bool refuse(__u64 *due_at, __u64 due, __u64 latest)
{
	if (due > latest + AHEAD_MAX_NS)
		__sync_val_compare_and_swap(due_at, due, latest);
	return false;
}

/* Generic cell rate algorithm, ITU-T I.371: a packet conforms if the schedule, with it, is no more
 * than the tolerance ahead. */
static __always_inline bool conforms(__u64 *due_at, __u64 interval_ns, __u64 tolerance_ns, __u64 now)
{
	const __u64 latest = now + tolerance_ns;
	__u64 due = *due_at, next, seen;

#pragma unroll
	for (int i = 0; i < EXCHANGE_TRIES; i++) {
		next = (due > now ? due : now) + interval_ns;
		if (next > latest)
			return refuse(due_at, due, latest);
		seen = __sync_val_compare_and_swap(due_at, due, next);
		if (seen == due)
			return true;
		due = seen;
	}
	/* Others keep moving it: it is not idle, so adding is right, and at most one packet of each
	 * CPU is early.  Dropping here would punish a source for its number of CPUs. */
	if ((due > now ? due : now) + interval_ns > latest)
		return false;
	__sync_fetch_and_add(due_at, interval_ns);
	return true;
}

static __always_inline int run_limit(struct xdp_md *ctx)
{
	struct x0d_view *view = get_view();
	struct x0d_source *source;
	struct x0d_limit *limit;
	__u32 index = 0;
	__u64 *hits;

	if (!view)
		return XDP_PASS;
	source = get_source(view);
	if (!source)
		return call_stages(ctx, view, X0D_STAGE_LIMIT + 1);
	__sync_fetch_and_add(&source->packets, 1);
	__sync_fetch_and_add(&source->bytes, view->event.length);
	limit = view->policy.limit_generation ? choose_limit(view, source, &index) : NULL;
	if (!limit || conforms(&source->due_at, limit->interval_ns, limit->tolerance_ns, read_clock(view, limit)))
		return call_stages(ctx, view, X0D_STAGE_LIMIT + 1);
	__sync_fetch_and_add(&source->limited, 1);
	hits = bpf_map_lookup_elem(&x0d_limit_hits, &index);
	if (hits)
		++*hits;
	return finish(view, X0D_VERDICT_LIMIT);
}

#endif
