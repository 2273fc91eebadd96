/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the tracing programs and the daemon share; the Python side is daemon/x0d/kernel/trace_layout.py.
 * A change of meaning raises X0D_LAYOUT_VERSION, one number for all objects of a version.  Nothing of this is pinned,
 * so there is never an older layout to read; the number guards against an object of another version.
 */
#ifndef X0D_TRACE_H
#define X0D_TRACE_H

#include "x0d.h"

#define X0D_TRACE_REASONS_MAX 512
#define X0D_TRACE_PEERS_MAX 1024
#define X0D_TRACE_QUEUED_MAX 16384
#define X0D_TRACE_CALLS_MAX 8192
#define X0D_TRACE_SYSCALLS_MAX 512 /* numbers past it are counted in the last */
#define X0D_TRACE_STATES 16
#define X0D_TRACE_FAMILIES 2 /* IPv4, IPv6 */
#define X0D_TRACE_BUCKETS 40 /* 2^39 ns are 9 minutes; what is longer is counted in the last */

/* Tables with an end; what finds no room is counted in x0d_t_past under the table's number. */
enum x0d_trace_table {
	X0D_TRACE_DROPS,
	X0D_TRACE_RETRANSMITS,
	X0D_TRACE_RESETS_SENT,
	X0D_TRACE_RESETS_RECEIVED,
	X0D_TRACE_TABLES,
};

/* Map x0d_t_config, entry 0. */
struct x0d_trace_config {
	__u32 layout_version;
	__u32 netns_inode; /* only this network namespace; 0: all, and what belongs to none */
};
_Static_assert(sizeof(struct x0d_trace_config) == 8, "trace config");

/* Key of the peers' tables: an address cut to /24 or /48; IPv4 as ::ffff:a.b.c.0. */
struct x0d_trace_peer {
	__u32 words[4];
};
_Static_assert(sizeof(struct x0d_trace_peer) == 16, "trace peer");

/* counts[i]: durations whose highest bit is bit i - 1, so from 2^(i-1) up to 2^i ns; counts[0]: 0 ns. */
struct x0d_trace_histogram {
	__u64 counts[X0D_TRACE_BUCKETS];
	__u64 sum_ns;
};
_Static_assert(sizeof(struct x0d_trace_histogram) == 328, "trace histogram");

/* Map x0d_t_timebox, entry 0. */
struct x0d_trace_timebox {
	__u64 until_ns; /* CLOCK_MONOTONIC; from then on nothing is measured, and the kernel sets it to 0 */
	__u32 sample_every; /* one call in so many, per CPU */
	__u32 layout_version;
	__u32 never_return[2]; /* exit, exit_group: they would leave their start behind */
};
_Static_assert(sizeof(struct x0d_trace_timebox) == 24, "trace timebox");

/* Map x0d_t_calls, by thread: a call that has begun. */
struct x0d_trace_call {
	__u64 at_ns;
	__u32 number;
	__u32 reserved;
};
_Static_assert(sizeof(struct x0d_trace_call) == 16, "trace call");

/* Position of the highest set bit, from 1; 0 for 0.  The kernel's BPF has no instruction for it. */
static __attribute__((always_inline)) inline __u32 bucket_of(__u64 duration_ns)
{
	__u32 bucket = 0;

	if (duration_ns >> 32) {
		bucket += 32;
		duration_ns >>= 32;
	}
	if (duration_ns >> 16) {
		bucket += 16;
		duration_ns >>= 16;
	}
	if (duration_ns >> 8) {
		bucket += 8;
		duration_ns >>= 8;
	}
	if (duration_ns >> 4) {
		bucket += 4;
		duration_ns >>= 4;
	}
	if (duration_ns >> 2) {
		bucket += 2;
		duration_ns >>= 2;
	}
	if (duration_ns >> 1) {
		bucket += 1;
		duration_ns >>= 1;
	}
	bucket += duration_ns;
	return bucket < X0D_TRACE_BUCKETS ? bucket : X0D_TRACE_BUCKETS - 1;
}

#define X0D_TRACE_OBSERVE(histogram, duration_ns)                         \
	do {                                                              \
		__u64 observed_ns = (duration_ns);                        \
		(histogram)->counts[bucket_of(observed_ns)] += 1;         \
		(histogram)->sum_ns += observed_ns;                       \
	} while (0)

#endif
