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

#define X0D_LAYOUT_VERSION 1

/* ---- the probe, UDP payload between two neighbours on the probe port (both ports are it) ---- */

#define X0D_PROBE_MAGIC 0x58304450 /* "X0DP" */
#define X0D_PROBE_VERSION 1
#define X0D_PROBE_REQUEST 1
#define X0D_PROBE_REPLY 2
#define X0D_PROBE_HOP_LIMIT 255 /* RFC 5082: no router passes a packet on with 255 */
#define X0D_PROBE_PORT_DEFAULT 9474

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
#define X0D_COUNTERS_MAX 8192 /* interface x class x verdict; past it packets go uncounted */
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
};
_Static_assert(sizeof(struct x0d_config) == 24, "config");

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
	X0D_VERDICTS
};

/* Key and per-CPU value of x0d_counters. */
struct x0d_counter_key {
	__u32 ifindex;
	__u16 class; /* enum x0d_class */
	__u16 verdict; /* enum x0d_verdict */
};
_Static_assert(sizeof(struct x0d_counter_key) == 8, "counter key");

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

/* Key of x0d_probe_events; its per-CPU value is a __u64 count. */
struct x0d_probe_event_key {
	__u32 ifindex;
	__u32 event; /* enum x0d_probe_event */
};
_Static_assert(sizeof(struct x0d_probe_event_key) == 8, "probe event key");

#endif
