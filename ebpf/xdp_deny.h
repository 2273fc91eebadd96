/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The deny stage: drops what comes from an address on the deny-list.
 *
 * A bitmap over the beginnings of addresses rules most sources out.  It is 128 KiB for each family, of
 * which the cache keeps what the sources of the moment need.  Then the exact addresses are asked, then
 * the prefixes.  The longest prefix hides broader ones, so an entry carries until when a broader one
 * denies the same addresses.
 * Floor: 5.10, for inner maps of another size than their template.
 */
#ifndef XDP_DENY_H
#define XDP_DENY_H

#include "xdp_finish.h"

static __always_inline bool entry_holds(const struct x0d_deny *entry)
{
	__u64 now;

	if (!entry->expires_at)
		return true;
	now = bpf_ktime_get_ns();
	return now < entry->expires_at || now < entry->covered_until;
}

static __always_inline bool passes_filter(__u32 element, __u32 beginning)
{
	struct x0d_deny_filter *filter = bpf_map_lookup_elem(&x0d_deny_filter, &element);
	__u32 start = beginning >> (32 - X0D_FILTER_START_BITS);

	return filter && !(filter->word[start >> 6] >> (start & 63) & 1);
}

/* The entry that denies the source now, or NULL. */
static __always_inline struct x0d_deny *find4(const struct x0d_view *view, __u32 index)
{
	const __u8 *address = view->event.source + 12;
	struct x0d_net4_key key = { .prefix_length = 32 };
	struct x0d_deny *entry;
	void *list;

	if (passes_filter(index, bpf_ntohl(*(const __be32 *)address)))
		return NULL;
	if (view->policy.deny_kinds & X0D_DENY_4) {
		list = bpf_map_lookup_elem(&x0d_deny4, &index);
		entry = list ? bpf_map_lookup_elem(list, address) : NULL;
		if (entry && entry_holds(entry))
			return entry;
	}
	if (view->policy.deny_kinds & X0D_DENY_4_NETS) {
		__builtin_memcpy(key.address, address, sizeof(key.address));
		list = bpf_map_lookup_elem(&x0d_deny4_nets, &index);
		entry = list ? bpf_map_lookup_elem(list, &key) : NULL;
		if (entry && entry_holds(entry))
			return entry;
	}
	return NULL;
}

static __always_inline struct x0d_deny *find6(const struct x0d_view *view, __u32 index)
{
	const __u8 *address = view->event.source;
	struct x0d_net6_key key = { .prefix_length = 128 };
	struct x0d_deny *entry;
	void *list;

	if (passes_filter(index + X0D_FILTER_6, bpf_ntohl(*(const __be32 *)address) * X0D_FILTER_MULTIPLIER))
		return NULL;
	if (view->policy.deny_kinds & X0D_DENY_6) {
		list = bpf_map_lookup_elem(&x0d_deny6, &index);
		entry = list ? bpf_map_lookup_elem(list, address) : NULL;
		if (entry && entry_holds(entry))
			return entry;
	}
	if (view->policy.deny_kinds & X0D_DENY_6_NETS) {
		__builtin_memcpy(key.address, address, sizeof(key.address));
		list = bpf_map_lookup_elem(&x0d_deny6_nets, &index);
		entry = list ? bpf_map_lookup_elem(list, &key) : NULL;
		if (entry && entry_holds(entry))
			return entry;
	}
	return NULL;
}

static __always_inline int run_deny(struct xdp_md *ctx)
{
	struct x0d_view *view = get_view();
	struct x0d_deny *entry;
	__u32 index;
	__u64 *hits;

	if (!view)
		return XDP_PASS;
	index = view->policy.deny_index;
	entry = view->family == 4 ? find4(view, index) : find6(view, index);
	if (!entry)
		return call_stages(ctx, view, X0D_STAGE_DENY + 1);
	hits = bpf_map_lookup_elem(&x0d_deny_hits, &entry->slot);
	if (hits)
		++*hits;
	return finish(view, X0D_VERDICT_DENY);
}

#endif
