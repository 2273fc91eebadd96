/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The few kernel structures that tracing reads, with only the members that it reads.  Their places are those of the
 * running kernel: each access is a CO-RE relocation, resolved through /sys/kernel/btf/vmlinux when the object loads.
 * A name with ___ is another version of the structure whose name goes before.
 */
#ifndef X0D_KERNEL_TYPES_H
#define X0D_KERNEL_TYPES_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct dst_entry {
	struct net_device *dev;
};

struct in6_addr {
	__u32 words[4];
};

struct sock_common {
	__be32 skc_daddr;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	__u16 transport_header;
	__u16 network_header;
	unsigned char *head;
};

/* From 5.14 on; a long named "state" before. */
struct task_struct {
	unsigned int __state;
	int pid;
};

struct task_struct___before_5_14 {
	long state;
};

/* What the tracepoints print: a member tells that the tracepoint has the argument. */
struct trace_event_raw_kfree_skb {
	void *rx_sk; /* 6.11 */
};

struct trace_event_raw_tcp_retransmit_skb {
	int err; /* 6.16 */
};

#pragma clang attribute pop

#endif
