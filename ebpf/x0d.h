/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the kernel programs and the daemon share: wire format of a probe, keys and values of the
 * maps, and the limits.  daemon/x0d/kernel/layout.py declares the same structures; the sizes are
 * asserted here and there, and X0D_LAYOUT_VERSION is bumped with every change of meaning, because
 * libbpf reuses a pinned map whenever its sizes agree.
 *
 * Integers of a packet are big endian (__be*); integers of a map are the host's.  Addresses are
 * 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.  Times are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef X0D_H
#define X0D_H

#include <linux/types.h>

#define X0D_LAYOUT_VERSION 2

/* ---- the probe, UDP payload between two neighbours on the probe port (both ports are it) ---- */

#define X0D_PROBE_MAGIC 0x58304450 /* "X0DP" */
#define X0D_PROBE_VERSION 1
#define X0D_PROBE_REQUEST 1
#define X0D_PROBE_REPLY 2
#define X0D_PROBE_HOP_LIMIT 255 /* RFC 5082: no router passes a packet on with 255 */

struct x0d_probe {
	__be32 magic;
	__u8 version;
	__u8 kind; /* X0D_PROBE_REQUEST or X0D_PROBE_REPLY */
	__be16 reserved; /* 0 */
	__be64 session; /* the prober's, random and new at each start of its daemon */
	__be64 sequence; /* 1, 2, 3 ... within a session and link */
	__be64 sent_at; /* prober's clock at sending; echoed */
	__be64 reflected_at; /* reflector's clock; 0 in a request */
	__be64 requests_received; /* reflector's count for this link and session, this one included */
} __attribute__((packed));
_Static_assert(sizeof(struct x0d_probe) == 48, "probe");

/* ---- maps ---- */

#define X0D_LINKS_MAX 256 /* neighbours of one node; more are refused by the daemon */
#define X0D_INTERFACES_MAX 256
#define X0D_LOW_INTERFACES_MAX 256 /* those of a lower ifindex are counted in an array */
#define X0D_SOURCES_DEFAULT 65536 /* tracked at a time; the least recently seen makes room */
#define X0D_DENY_DEFAULT 131072 /* deny-list entries */
#define X0D_LIMITS_MAX 1024
#define X0D_LIMIT_TICKS_MIN 20 /* a schedule is kept by jiffies if it may be so many of them ahead */
#define X0D_LIMIT_FALLBACKS_MAX 4 /* expired limits skipped for the next broader one */
#define X0D_EVENT_BYTES_DEFAULT (256 * 1024)
#define X0D_PROBE_WINDOW 64 /* replies remembered one by one, in x0d_link.received */
#define X0D_SEQUENCE_JUMP_MAX (1 << 20) /* a reply further ahead than this is refused */
#define X0D_REPLY_AGE_MAX_NS 10000000000ULL /* a reply to an older probe is refused */

/* One entry, index 0.  Written by the daemon at each start. */
struct x0d_config {
	__u32 layout_version;
	__u32 probe_port; /* host order */
	__u64 session; /* replies of another session are refused */
	__u32 probe_rate_pps; /* probes answered or accepted per interface and second */
	__u32 probe_burst; /* bucket depth, probes */
	__u32 event_every; /* every Nth packet of a CPU and interface becomes an event; 0: none */
	__u32 talkers; /* 1: count every source, 0: only those that a limit holds for */
	__u32 tick_ns; /* length of a jiffy, for the cheap clock of limits; 0: not known, the exact clock is taken */
	__u32 reserved;
};
_Static_assert(sizeof(struct x0d_config) == 40, "config");

/* ---- stages ----
 *
 * The root program looks at the packet and calls the stages through x0d_stages, a PROG_ARRAY, in
 * this order.  An empty slot is passed over, and so is a stage that has nothing to do with the packet
 * (its lists are empty, or it is no probe).  Who ends a packet counts it; what no stage ends passes.
 * The slots after ours are kept free. */
enum x0d_stage {
	X0D_STAGE_DENY,
	X0D_STAGE_LIMIT, /* token bucket and talkers, by source */
	X0D_STAGE_PROBE,
	X0D_STAGE_SYN, /* token bucket on SYNs to our ports; last, because slots of arrays in force keep their meaning */
	X0D_STAGES
};
#define X0D_STAGE_SLOTS 8

/* ---- deny-list and limits ---- */

/* One entry, one word, read once for a packet: it sees the old lists or the new ones, never half.
 * Element `deny_index` of the outer maps x0d_deny4, x0d_deny6 (hash tables of exact addresses),
 * x0d_deny4_nets, x0d_deny6_nets (tries of true prefixes) is in force, and that of x0d_deny_filter. */
struct x0d_policy {
	__u8 deny_index; /* 0 or 1 */
	__u8 deny_kinds; /* X0D_DENY_* bits: which of the four lists are not empty */
	__u16 reserved;
	__u32 limit_generation; /* 0: there is no limit; else different after each change of limits */
};
_Static_assert(sizeof(struct x0d_policy) == 8, "policy");

#define X0D_DENY_4 1
#define X0D_DENY_4_NETS 2
#define X0D_DENY_6 4
#define X0D_DENY_6_NETS 8

/* Bit `start` is set if some entry, exact or prefix, covers an address of that start: word = start >> 6,
 * bit = start & 63.  The start of an IPv4 address is its first 20 bits in host order.  Of an IPv6 address,
 * whose first bits hardly differ, it is the upper 20 bits of (first 32 bits in host order) x
 * X0D_FILTER_MULTIPLIER modulo 2^32 (Knuth's multiplicative hash; the prime is 2^32 / golden ratio).
 * Element deny_index of x0d_deny_filter is about IPv4, element deny_index + X0D_FILTER_6 about IPv6. */
#define X0D_FILTER_START_BITS 20
#define X0D_FILTER_MULTIPLIER 0x9e3779b1U
#define X0D_FILTER_6 2
struct x0d_deny_filter {
	__u64 word[1 << (X0D_FILTER_START_BITS - 6)];
};
_Static_assert(sizeof(struct x0d_deny_filter) == 131072, "deny filter");

struct x0d_net4_key { /* of a trie */
	__u32 prefix_length; /* host order */
	__u8 address[4];
};
_Static_assert(sizeof(struct x0d_net4_key) == 8, "IPv4 prefix key");

struct x0d_net6_key {
	__u32 prefix_length;
	__u8 address[16];
};
_Static_assert(sizeof(struct x0d_net6_key) == 20, "IPv6 prefix key");

/* Value of the four lists.  Exact keys are 4 or 16 bytes of address in network order. */
struct x0d_deny {
	__u32 slot; /* of x0d_deny_hits, the entry's own for as long as it exists */
	__u32 reserved;
	__u64 expires_at; /* 0: never; 2^63 - 1, the latest: for ever */
	__u64 covered_until; /* an address of this entry is denied by a broader one until then; 0: no, ~0: for ever */
};
_Static_assert(sizeof(struct x0d_deny) == 24, "deny");

/* Element of the array x0d_limits; x0d_limit4 and x0d_limit6 (tries) lead to its index (__u32).
 * Generic cell rate algorithm (ITU-T I.371): a packet costs `interval_ns`, and a source may be
 * `tolerance_ns` ahead of its schedule.  Its clock is jiffies x tick_ns if the tolerance is
 * X0D_LIMIT_TICKS_MIN ticks or more: then a tick is 5 % of it, and the five by which jiffies of a
 * virtual machine may be late are a quarter.  Else it is CLOCK_MONOTONIC, which costs 15 ns more.
 * Both run alike and begin apart: jiffies are 2^32 ticks less 300 s ahead. */
struct x0d_limit {
	__u64 interval_ns; /* 1 s / rate */
	__u64 tolerance_ns; /* interval_ns x burst */
	__u64 expires_at; /* 0: never */
	__u32 fallback; /* index + 1 of the next broader limit, taken once this one has expired; 0: none */
	__u32 rate_pps; /* as it was asked for, since interval_ns is rounded; XDP does not read it */
};
_Static_assert(sizeof(struct x0d_limit) == 32, "limit");

/* Value of x0d_sources, an LRU hash by address (16 bytes), of the whole host, not per CPU. */
struct x0d_source {
	__u64 due_at; /* theoretical arrival time of the next packet, on the clock that its limit is kept by */
	__u64 limit; /* limit_generation << 32 | index + 1; index part 0: no limit in that generation */
	__u64 packets; /* that came to this stage */
	__u64 bytes;
	__u64 limited; /* of these, dropped by the limit */
};
_Static_assert(sizeof(struct x0d_source) == 40, "source");

/* ---- limit on SYNs to our ports ----
 *
 * These three maps came into layout 2 later than the others; what is of before knows nothing of them. */

#define X0D_SYN_PORTS_MAX 4
#define X0D_SYN_SOURCES_MAX 8192 /* the least recently seen makes room */

/* Map x0d_syn_config, entry 0.  Times as in struct x0d_limit; the clock is CLOCK_MONOTONIC.  A SYN that comes
 * while the daemon writes it may be judged by half of either; nothing of that lasts. */
struct x0d_syn_config {
	__u64 interval_ns; /* 1 s / rate; 0: off */
	__u64 tolerance_ns; /* interval_ns x burst */
	__be16 ports[X0D_SYN_PORTS_MAX]; /* ours; 0: none */
};
_Static_assert(sizeof(struct x0d_syn_config) == 24, "SYN config");

/* Key of x0d_syn_sources, an LRU hash; the value (__u64) is when the source's next SYN is due. */
struct x0d_syn_key {
	__u32 ifindex;
	__u32 reserved;
	__u8 address[16]; /* IPv6: last 8 bytes 0, link-local then fe80::; a neighbour's whole */
};
_Static_assert(sizeof(struct x0d_syn_key) == 24, "SYN key");

/* Key of x0d_links (address: the neighbour's) and x0d_locals (address: our own). */
struct x0d_link_key {
	__u32 ifindex;
	__u32 reserved;
	__u8 address[16];
};
_Static_assert(sizeof(struct x0d_link_key) == 24, "link key");

/* The kernel's record of one configured neighbour.  The daemon makes the entry and reads it with
 * BPF_F_LOCK; all counters are written by XDP alone, under the lock. */
struct x0d_link {
	__u32 lock; /* struct bpf_spin_lock in the kernel */
	__u32 reserved;
	__u8 local_address[16]; /* only packets to it belong to this link */
	/* as the reflector of the peer's probes */
	__u64 peer_session;
	__u64 requests_received; /* in peer_session */
	__u64 request_last_at;
	/* as the prober: replies to our own probes, in `session` */
	__u64 session;
	__u64 sequence_last; /* highest sequence answered */
	__u64 received; /* bit i: sequence_last - i was answered */
	__u64 replies_received;
	__u64 peer_requests_received; /* the peer's count that came with sequence_last */
	__u64 reply_last_at; /* our clock when the latest reply came in */
	__u64 rtt_last_ns; /* of sequence_last */
	__u64 rtt_sum_ns; /* of all replies_received */
	__u64 reflected_last_at; /* the peer's clock, from sequence_last */
};
_Static_assert(sizeof(struct x0d_link) == 120, "link");

/* Token bucket of one interface, value of x0d_buckets. */
struct x0d_bucket {
	__u32 lock;
	__u32 tokens; /* thousandths of a probe */
	__u64 refilled_at;
};
_Static_assert(sizeof(struct x0d_bucket) == 16, "bucket");

enum x0d_class { /* protocol class of a packet */
	X0D_CLASS_OTHER, /* neither IP nor ARP */
	X0D_CLASS_ARP,
	X0D_CLASS_TCP,
	X0D_CLASS_UDP,
	X0D_CLASS_ICMP, /* ICMP and ICMPv6 */
	X0D_CLASS_IP_OTHER,
	X0D_CLASS_FRAGMENT, /* not the first of its datagram: no ports */
	X0D_CLASS_PROBE, /* x0d's own */
	X0D_CLASS_MALFORMED,
	X0D_CLASSES
};

enum x0d_verdict {
	X0D_VERDICT_PASS, /* to the network stack */
	X0D_VERDICT_DROP, /* refused: XDP_DROP */
	X0D_VERDICT_REFLECT, /* a probe answered: XDP_TX */
	X0D_VERDICT_CONSUME, /* a reply recorded: XDP_DROP, nothing was lost */
	X0D_VERDICT_DENY, /* its source is on the deny-list: XDP_DROP */
	X0D_VERDICT_LIMIT, /* its source is over its rate: XDP_DROP */
	X0D_VERDICTS
};

struct x0d_counter {
	__u64 packets;
	__u64 bytes; /* of the frame, Ethernet header included */
};
_Static_assert(sizeof(struct x0d_counter) == 16, "counter");

enum x0d_probe_event { /* outcome of each packet that came to a probe port of ours */
	X0D_PROBE_ANSWERED,
	X0D_PROBE_ACCEPTED, /* a reply recorded */
	X0D_PROBE_DUPLICATE, /* a reply seen before */
	X0D_PROBE_HOP_LIMIT_WRONG,
	X0D_PROBE_STRANGER, /* not a configured neighbour of that interface */
	X0D_PROBE_RATE_EXCEEDED,
	X0D_PROBE_MALFORMED, /* length, magic, version, kind or port */
	X0D_PROBE_SESSION_STALE, /* a reply to an earlier life of this daemon */
	X0D_PROBE_IMPLAUSIBLE, /* sequence or time out of range */
	X0D_PROBE_EVENTS
};

/* Per-CPU value of x0d_low, an array by ifindex for those below X0D_LOW_INTERFACES_MAX (10 ns less for
 * each packet), and of x0d_interfaces, a hash table for all others.  The daemon makes the entry before it
 * attaches, in the array by `present`; what is not present there is looked for in the hash table.  A packet
 * of an interface without an entry passes uncounted. */
struct x0d_interface {
	struct x0d_counter packets[X0D_CLASSES][X0D_VERDICTS];
	__u64 probes[X0D_PROBE_EVENTS];
	__u64 events_sent;
	__u64 events_lost; /* the ring buffer was full */
	__u32 event_tick; /* packets since the last event */
	__u32 present; /* in x0d_low: 1 on every CPU if the interface is counted here */
};
_Static_assert(sizeof(struct x0d_interface) == 16 * 9 * 6 + 8 * 9 + 24, "interface");

/* Record of the ring buffer x0d_events. */
struct x0d_event {
	__u64 at;
	__u32 ifindex;
	__u32 length; /* of the frame */
	__u8 source[16]; /* zero if the packet is not IP; as it came in, also when it was reflected */
	__u8 destination[16];
	__be16 source_port; /* 0 where there are none */
	__be16 destination_port;
	__u8 protocol; /* IP protocol number */
	__u8 class; /* enum x0d_class */
	__u8 verdict; /* enum x0d_verdict */
	__u8 tags; /* VLAN tags */
};
_Static_assert(sizeof(struct x0d_event) == 56, "event");

#endif
