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

#define VLAN_TAGS_MAX 2
#define PROBE_UDP_BYTES (sizeof(struct udphdr) + sizeof(struct x0d_probe))
#define IP_FRAGMENT_MASK 0x3fff /* more fragments, and the offset */
#define IP_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8
#define MILLITOKENS 1000
#define NS_PER_MS 1000000ULL
#define REFILL_SPAN_MAX_NS 1000000000000ULL /* keeps span x rate below 2^64 up to 10^7 pps */

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- maps; the daemon pins them, so they outlive it and this program ---- */

/* The kernel finds the lock by its type, at the top level of a value's BTF. */
struct x0d_link_value {
	struct bpf_spin_lock lock;
	__u32 reserved;
	__u64 fields[14]; /* as struct x0d_link */
};
_Static_assert(sizeof(struct x0d_link_value) == sizeof(struct x0d_link), "link value");

struct x0d_bucket_value {
	struct bpf_spin_lock lock;
	__u32 tokens;
	__u64 refilled_at;
};
_Static_assert(sizeof(struct x0d_bucket_value) == sizeof(struct x0d_bucket), "bucket value");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_config);
} x0d_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_LINKS_MAX);
	__type(key, struct x0d_link_key);
	__type(value, struct x0d_link_value);
} x0d_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_LINKS_MAX);
	__type(key, struct x0d_link_key);
	__type(value, __u32);
} x0d_locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, X0D_INTERFACES_MAX);
	__type(key, __u32);
	__type(value, struct x0d_bucket_value);
} x0d_buckets SEC(".maps");

/* Few of the possible keys occur, and a value is multiplied by the CPUs: not preallocated. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_COUNTERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct x0d_counter_key);
	__type(value, struct x0d_counter);
} x0d_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, X0D_INTERFACES_MAX * X0D_PROBE_EVENTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct x0d_probe_event_key);
	__type(value, __u64);
} x0d_probe_events SEC(".maps");

/* ---- counting ---- */

static __always_inline void count_packet(__u32 ifindex, __u32 class, __u32 verdict, __u64 bytes)
{
	struct x0d_counter_key key = { .ifindex = ifindex, .class = class, .verdict = verdict };
	struct x0d_counter *counter = bpf_map_lookup_elem(&x0d_counters, &key);

	if (!counter) {
		struct x0d_counter zero = {};

		/* Another CPU may have made it first; a full map leaves the packet uncounted. */
		bpf_map_update_elem(&x0d_counters, &key, &zero, BPF_NOEXIST);
		counter = bpf_map_lookup_elem(&x0d_counters, &key);
		if (!counter)
			return;
	}
	counter->packets++;
	counter->bytes += bytes;
}

static __always_inline void count_event(__u32 ifindex, __u32 event)
{
	struct x0d_probe_event_key key = { .ifindex = ifindex, .event = event };
	__u64 *count = bpf_map_lookup_elem(&x0d_probe_events, &key);

	if (!count) {
		__u64 zero = 0;

		bpf_map_update_elem(&x0d_probe_events, &key, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&x0d_probe_events, &key);
		if (!count)
			return;
	}
	(*count)++;
}

/* ---- looking at a packet ---- */

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

/* ---- probes ---- */

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

struct ends {
	struct x0d_link_key source; /* key of x0d_links */
	struct x0d_link_key destination; /* key of x0d_locals */
	__u32 hop_limit;
	bool whole; /* the IP header promises exactly one probe */
};

static __always_inline void map_ipv4(__u8 *address, __be32 ipv4)
{
	__u32 *word = (__u32 *)address;

	word[2] = bpf_htonl(0xffff);
	word[3] = ipv4;
}

static __always_inline bool read_ends(struct ends *ends, void *data, void *end, __u32 family)
{
	void *header = data + sizeof(struct ethhdr);

	if (family == 4) {
		struct iphdr *ip = header;

		if ((void *)(ip + 1) > end)
			return false;
		map_ipv4(ends->source.address, ip->saddr);
		map_ipv4(ends->destination.address, ip->daddr);
		ends->hop_limit = ip->ttl;
		ends->whole = ip->tot_len == bpf_htons(sizeof(*ip) + PROBE_UDP_BYTES);
	} else {
		struct ipv6hdr *ip = header;

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(ends->source.address, &ip->saddr, 16);
		__builtin_memcpy(ends->destination.address, &ip->daddr, 16);
		ends->hop_limit = ip->hop_limit;
		ends->whole = ip->payload_len == bpf_htons(PROBE_UDP_BYTES);
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
static __always_inline __u32 handle_probe(struct xdp_md *ctx, const struct view *view, const struct x0d_config *config)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + sizeof(struct ethhdr);
	struct ends ends = {};
	struct x0d_link_value *link;
	struct udphdr *udp;
	struct x0d_probe *probe;
	__u64 now, session, sent_at, sequence;

	ends.source.ifindex = ends.destination.ifindex = ctx->ingress_ifindex;
	if (!read_ends(&ends, data, end, view->family) || !bpf_map_lookup_elem(&x0d_locals, &ends.destination))
		return X0D_PROBE_EVENTS;
	if (ends.hop_limit != X0D_PROBE_HOP_LIMIT)
		return X0D_PROBE_HOP_LIMIT_WRONG;
	link = bpf_map_lookup_elem(&x0d_links, &ends.source);
	if (!link || !same_address(((struct x0d_link *)link)->local_address, ends.destination.address))
		return X0D_PROBE_STRANGER;

	udp = ip + (view->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	probe = (void *)(udp + 1);
	if (view->odd || !ends.whole || (void *)(probe + 1) > end || !well_formed(data, udp, probe))
		return X0D_PROBE_MALFORMED;

	now = bpf_ktime_get_ns();
	session = load_be64(&probe->session);
	if (probe->kind == X0D_PROBE_REQUEST) {
		if (!take_token(ctx->ingress_ifindex, config, now))
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
	if (!take_token(ctx->ingress_ifindex, config, now))
		return X0D_PROBE_RATE_EXCEEDED;
	return record_reply(link, probe, session, sequence, now - sent_at, now);
}

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
