/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The probe stage: who may send a probe, turning a request round, recording a reply.
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
 * Floor: 5.10.
 */
#ifndef XDP_PROBE_H
#define XDP_PROBE_H

#include "xdp_finish.h"

#define PROBE_UDP_BYTES (sizeof(struct udphdr) + sizeof(struct x0d_probe))
#define MILLITOKENS 1000
#define NS_PER_MS 1000000ULL
#define REFILL_SPAN_MAX_NS 1000000000000ULL /* keeps span x rate below 2^64 up to 10^7 pps */

/* A packed field is read byte by byte; these are one instruction each.  The verifier allows it on
 * every machine with efficient unaligned access, x86-64 and arm64 among them. */
static __always_inline __u64 load_be64(const void *at)
{
	return bpf_be64_to_cpu(*(const __be64 *)at);
}

static __always_inline void store_be64(void *at, __u64 value)
{
	*(__be64 *)at = bpf_cpu_to_be64(value);
}

/* RFC 1071: sums of 32-bit words fold to the sum of their 16-bit halves, in either byte order. */
static __always_inline __u64 sum_words(__u64 sum, const void *from, const int words)
{
	const __u32 *word = from;

#pragma unroll
	for (int i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

static __always_inline __u16 fold_checksum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline bool take_token(__u32 ifindex, const struct x0d_config *config, __u64 now)
{
	__u64 depth = (__u64)config->probe_burst * MILLITOKENS;
	__u64 rate = config->probe_rate_pps;
	struct x0d_bucket_value *bucket = bpf_map_lookup_elem(&x0d_buckets, &ifindex);
	bool taken = false;

	if (!bucket) {
		struct x0d_bucket_value full = { .tokens = depth, .refilled_at = now };

		bpf_map_update_elem(&x0d_buckets, &ifindex, &full, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&x0d_buckets, &ifindex);
		if (!bucket)
			return false;
	}
	bpf_spin_lock(&bucket->lock);
	if (now > bucket->refilled_at && rate) {
		__u64 span = now - bucket->refilled_at;
		__u64 fresh;

		if (span > REFILL_SPAN_MAX_NS) {
			span = REFILL_SPAN_MAX_NS;
			bucket->refilled_at = now - span;
		}
		/* Time that made no whole millitoken stays, or a flood would never see a refill. */
		fresh = span * rate / NS_PER_MS;
		if (fresh) {
			bucket->refilled_at += fresh * NS_PER_MS / rate;
			fresh += bucket->tokens;
			bucket->tokens = fresh < depth ? fresh : depth;
		}
	}
	if (bucket->tokens >= MILLITOKENS) {
		bucket->tokens -= MILLITOKENS;
		taken = true;
	}
	bpf_spin_unlock(&bucket->lock);
	return taken;
}

/* The caller has checked the bounds of the whole probe. */
static __always_inline void turn_round(void *data, void *ip_header, struct udphdr *udp, __u32 family,
				       __u64 now, __u64 requests_received)
{
	struct ethhdr *ethernet = data;
	struct x0d_probe *probe = (void *)(udp + 1);
	__u8 mac[ETH_ALEN];
	__u64 sum;

	__builtin_memcpy(mac, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, mac, ETH_ALEN);

	probe->kind = X0D_PROBE_REPLY;
	store_be64(&probe->reflected_at, now);
	store_be64(&probe->requests_received, requests_received);

	/* Both ports are the probe port, so they need no swap.  The hop limit came as 255. */
	udp->check = 0;
	sum = sum_words(bpf_htons(IPPROTO_UDP) + bpf_htons(PROBE_UDP_BYTES), udp, PROBE_UDP_BYTES / 4);
	if (family == 4) {
		struct iphdr *ip = ip_header;
		__be32 address = ip->saddr;

		ip->saddr = ip->daddr;
		ip->daddr = address;
		ip->check = 0;
		ip->check = fold_checksum(sum_words(0, ip, sizeof(*ip) / 4));
		sum = sum_words(sum, &ip->saddr, 2);
	} else {
		struct ipv6hdr *ip = ip_header;
		struct in6_addr address = ip->saddr;

		ip->saddr = ip->daddr;
		ip->daddr = address;
		sum = sum_words(sum, &ip->saddr, 8);
	}
	udp->check = fold_checksum(sum);
	if (!udp->check)
		udp->check = 0xffff; /* RFC 768: 0 says there is no checksum */
}

static __always_inline __u64 record_request(struct x0d_link_value *value, __u64 session, __u64 now)
{
	struct x0d_link *link = (void *)value;
	__u64 requests_received;

	bpf_spin_lock(&value->lock);
	if (link->peer_session != session) {
		link->peer_session = session;
		link->requests_received = 0;
	}
	requests_received = ++link->requests_received;
	link->request_last_at = now;
	bpf_spin_unlock(&value->lock);
	return requests_received;
}

/* Returns the event to count. */
static __always_inline __u32 record_reply(struct x0d_link_value *value, const struct x0d_probe *probe,
					  __u64 session, __u64 sequence, __u64 rtt_ns, __u64 now)
{
	__u64 reflected_at = load_be64(&probe->reflected_at);
	__u64 peer_requests_received = load_be64(&probe->requests_received);
	struct x0d_link *link = (void *)value;
	__u32 event = X0D_PROBE_ACCEPTED;
	__u64 ahead, back;

	bpf_spin_lock(&value->lock);
	if (link->session != session) {
		link->session = session;
		link->sequence_last = 0;
		link->received = 0;
		link->replies_received = 0;
		link->peer_requests_received = 0;
		link->reply_last_at = 0;
		link->rtt_last_ns = 0;
		link->rtt_sum_ns = 0;
		link->reflected_last_at = 0;
	}
	ahead = sequence - link->sequence_last;
	back = link->sequence_last - sequence;
	if (now > link->reply_last_at + X0D_REPLY_AGE_MAX_NS) {
		/* After a silence any sequence will do: hours of unanswered probes are a long jump,
		 * and a record that was led astray finds back. */
		link->received = 0;
		ahead = 1;
	}
	if (sequence > link->sequence_last || !link->received) {
		if (ahead > X0D_SEQUENCE_JUMP_MAX) {
			event = X0D_PROBE_IMPLAUSIBLE;
			goto unlock;
		}
		link->received = (ahead < X0D_PROBE_WINDOW ? link->received << (ahead & 63) : 0) | 1;
		link->sequence_last = sequence;
		link->peer_requests_received = peer_requests_received;
		link->rtt_last_ns = rtt_ns;
		link->reflected_last_at = reflected_at;
	} else if (back >= X0D_PROBE_WINDOW) {
		event = X0D_PROBE_IMPLAUSIBLE;
		goto unlock;
	} else if (link->received >> back & 1) {
		event = X0D_PROBE_DUPLICATE;
		goto unlock;
	} else {
		link->received |= 1ULL << back;
	}
	link->replies_received++;
	link->reply_last_at = now;
	link->rtt_sum_ns += rtt_ns;
unlock:
	bpf_spin_unlock(&value->lock);
	return event;
}

/* Whether the IP header promises exactly one probe that no router has passed on. */
struct promise {
	__u32 hop_limit;
	bool whole;
};

static __always_inline bool read_promise(struct promise *promise, void *header, void *end, __u32 family)
{
	if (family == 4) {
		struct iphdr *ip = header;

		if ((void *)(ip + 1) > end)
			return false;
		promise->hop_limit = ip->ttl;
		promise->whole = ip->tot_len == bpf_htons(sizeof(*ip) + PROBE_UDP_BYTES);
	} else {
		struct ipv6hdr *ip = header;

		if ((void *)(ip + 1) > end)
			return false;
		promise->hop_limit = ip->hop_limit;
		promise->whole = ip->payload_len == bpf_htons(PROBE_UDP_BYTES);
	}
	return true;
}

static __always_inline bool same_address(const __u8 *one, const __u8 *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;

	return a[0] == b[0] && a[1] == b[1];
}

static __always_inline bool well_formed(const struct ethhdr *ethernet, const struct udphdr *udp,
					const struct x0d_probe *probe)
{
	const __u64 head = load_be64(probe); /* magic, version, kind, reserved */

	return !(ethernet->h_dest[0] & 1) && udp->source == udp->dest &&
	       udp->len == bpf_htons(PROBE_UDP_BYTES) &&
	       (head & ~0xff0000ULL) == ((__u64)X0D_PROBE_MAGIC << 32 | X0D_PROBE_VERSION << 24);
}

/* What became of a packet to a probe port: an x0d_probe_event, or X0D_PROBE_EVENTS for one that is
 * not to us. */
static __always_inline __u32 handle_probe(struct xdp_md *ctx, const struct x0d_view *view,
					  const struct x0d_config *config)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + sizeof(struct ethhdr);
	struct x0d_link_key neighbour = { .ifindex = view->event.ifindex };
	struct x0d_link_key local = { .ifindex = view->event.ifindex };
	struct promise promise;
	struct x0d_link_value *link;
	struct udphdr *udp;
	struct x0d_probe *probe;
	__u64 now, session, sent_at, sequence;

	__builtin_memcpy(neighbour.address, view->event.source, 16);
	__builtin_memcpy(local.address, view->event.destination, 16);
	if (!read_promise(&promise, ip, end, view->family) || !bpf_map_lookup_elem(&x0d_locals, &local))
		return X0D_PROBE_EVENTS;
	if (promise.hop_limit != X0D_PROBE_HOP_LIMIT)
		return X0D_PROBE_HOP_LIMIT_WRONG;
	link = bpf_map_lookup_elem(&x0d_links, &neighbour);
	if (!link || !same_address(((struct x0d_link *)link)->local_address, local.address))
		return X0D_PROBE_STRANGER;

	udp = ip + (view->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	probe = (void *)(udp + 1);
	if (view->odd || !promise.whole || (void *)(probe + 1) > end || !well_formed(data, udp, probe))
		return X0D_PROBE_MALFORMED;

	now = bpf_ktime_get_ns();
	session = load_be64(&probe->session);
	if (probe->kind == X0D_PROBE_REQUEST) {
		if (!take_token(view->event.ifindex, config, now))
			return X0D_PROBE_RATE_EXCEEDED;
		turn_round(data, ip, udp, view->family, now, record_request(link, session, now));
		return X0D_PROBE_ANSWERED;
	}
	if (probe->kind != X0D_PROBE_REPLY)
		return X0D_PROBE_MALFORMED;
	if (session != config->session)
		return X0D_PROBE_SESSION_STALE;
	sent_at = load_be64(&probe->sent_at);
	sequence = load_be64(&probe->sequence);
	if (!sequence || sent_at > now || now - sent_at > X0D_REPLY_AGE_MAX_NS)
		return X0D_PROBE_IMPLAUSIBLE;
	if (!take_token(view->event.ifindex, config, now))
		return X0D_PROBE_RATE_EXCEEDED;
	return record_reply(link, probe, session, sequence, now - sent_at, now);
}

static __always_inline int run_probe(struct xdp_md *ctx)
{
	__u32 zero = 0, event;
	struct x0d_config *config = bpf_map_lookup_elem(&x0d_config, &zero);
	struct x0d_view *view = get_view();

	if (!config || !view)
		return XDP_PASS;
	event = handle_probe(ctx, view, config);
	switch (event) {
	case X0D_PROBE_EVENTS:
		return call_stages(ctx, view, X0D_STAGE_PROBE + 1);
	case X0D_PROBE_ANSWERED:
		return finish_as(view, X0D_CLASS_PROBE, X0D_VERDICT_REFLECT, event);
	case X0D_PROBE_ACCEPTED:
	case X0D_PROBE_DUPLICATE:
		return finish_as(view, X0D_CLASS_PROBE, X0D_VERDICT_CONSUME, event);
	}
	return finish_as(view, X0D_CLASS_PROBE, X0D_VERDICT_DROP, event);
}

#endif
