/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the kernel tells at its tracepoints: dropped packets by reason, TCP retransmits and resets by peer, transitions
 * of TCP sockets, and how long threads wait for a CPU.  Each program is optional; the daemon loads those that it wants
 * and that this kernel takes.  They are BTF tracepoints, which need neither tracefs nor kprobes.
 *
 * Several daemons may share a machine, one in each network namespace: what belongs to another namespace is not counted.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel_types.h"
#include "trace.h"
#include "trace_maps.h"

/* BPF_PROG gives each program a context, which few look at. */
#pragma clang diagnostic ignored "-Wunused-parameter"

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define HEADER_UNSET 0xffff
#define IPV4_MAPPED bpf_htonl(0xffff)
#define TASK_RUNNING 0

char LICENSE[] SEC("license") = "GPL";

const __u32 layout_version SEC("x0d_layout") = X0D_LAYOUT_VERSION;

/* ---- whose it is ---- */

/* The namespace to be counted; 0: all. */
static __always_inline __u32 wanted_namespace(void)
{
	__u32 zero = 0;
	struct x0d_trace_config *config = bpf_map_lookup_elem(&x0d_t_config, &zero);

	return config ? config->netns_inode : 0;
}

static __always_inline bool socket_is_ours(const struct sock *sk, __u32 wanted)
{
	return !wanted || sk->__sk_common.skc_net.net->ns.inum == wanted;
}

/* A device pointer may be a leftover: UDP keeps other things in its place, TCP a tree's.  The kernel reads 0 or garbage
 * through it, which is no namespace's number; then the socket decides. */
static __always_inline bool packet_is_ours(const struct sk_buff *skb, __u32 wanted)
{
	const struct net_device *dev = skb->dev;
	const struct sock *sk = skb->sk;

	if (!wanted || (dev && dev->nd_net.net->ns.inum == wanted))
		return true;
	return sk && socket_is_ours(sk, wanted);
}

/* ---- drops ---- */

/* TCP takes the device from a segment before it looks at it, and the segment never belonged to a socket.  Kernels that
 * do not tell the receiving socket leave only the route. */
static __always_inline bool route_is_ours(const struct sk_buff *skb, __u32 wanted)
{
	const struct dst_entry *route = (const struct dst_entry *)(skb->_skb_refdst & ~1UL); /* bit 0: not counted */

	if (!route || !bpf_core_field_exists(route->dev))
		return false;
	return BPF_CORE_READ(route, dev, nd_net.net, ns.inum) == wanted;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(x0d_t_drop, struct sk_buff *skb, void *location, __u32 reason)
{
	__u32 wanted = wanted_namespace();
	bool ours = packet_is_ours(skb, wanted) || route_is_ours(skb, wanted);

	if (!ours && bpf_core_field_exists(((struct trace_event_raw_kfree_skb *)0)->rx_sk)) {
		const struct sock *receiver = (const struct sock *)ctx[3];

		ours = receiver && socket_is_ours(receiver, wanted);
	}
	if (ours)
		count_key(&x0d_t_drops, &reason, X0D_TRACE_DROPS);
	return 0;
}

/* ---- TCP by peer ---- */

static __always_inline void count_ipv4(void *map, __be32 address, __u32 table)
{
	struct x0d_trace_peer peer = { .words = { 0, 0, IPV4_MAPPED, address & bpf_htonl(0xffffff00) } };

	count_key(map, &peer, table);
}

/* words: an address, whose fourth word is only looked at when it is an IPv4 one. */
static __always_inline void count_ipv6(void *map, const __u32 *words, __u32 table)
{
	struct x0d_trace_peer peer = {};

	if (!words[0] && !words[1] && words[2] == IPV4_MAPPED) {
		count_ipv4(map, words[3], table);
		return;
	}
	peer.words[0] = words[0];
	peer.words[1] = words[1] & bpf_htonl(0xffff0000);
	count_key(map, &peer, table);
}

/* False if the socket has no peer: it listens. */
static __always_inline bool count_socket(void *map, const struct sock *sk, __u32 table)
{
	__u32 words[4] = {};

	if (sk->__sk_common.skc_family == FAMILY_IPV4) {
		if (!sk->__sk_common.skc_daddr)
			return false;
		count_ipv4(map, sk->__sk_common.skc_daddr, table);
		return true;
	}
	if (!bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		return false;
	bpf_probe_read_kernel(words, sizeof(words), &sk->__sk_common.skc_v6_daddr);
	if (!(words[0] | words[1] | words[2] | words[3]))
		return false;
	count_ipv6(map, words, table);
	return true;
}

/* The sender of a packet that was received. */
static __always_inline void count_sender(void *map, const struct sk_buff *skb, __u32 table)
{
	const unsigned char *header = skb->head + skb->network_header;
	__u32 words[4] = {};
	__u8 version = 0;

	if (skb->transport_header == HEADER_UNSET)
		return;
	bpf_probe_read_kernel(&version, sizeof(version), header);
	if (version >> 4 == 4 && bpf_probe_read_kernel(words, 4, header + 12) == 0)
		count_ipv4(map, words[0], table);
	else if (version >> 4 == 6 && bpf_probe_read_kernel(words, 16, header + 8) == 0)
		count_ipv6(map, words, table);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(x0d_t_retransmit, const struct sock *sk, const struct sk_buff *skb)
{
	/* Kernels that tell the outcome also tell of segments that did not go. */
	if (bpf_core_field_exists(((struct trace_event_raw_tcp_retransmit_skb *)0)->err) && (int)ctx[2])
		return 0;
	if (sk && socket_is_ours(sk, wanted_namespace()))
		count_socket(&x0d_t_retrans, sk, X0D_TRACE_RETRANSMITS);
	return 0;
}

/* Without a socket (nobody listens), or with one that listens, the packet that is answered names the peer. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(x0d_t_reset_out, const struct sock *sk, const struct sk_buff *skb)
{
	__u32 wanted = wanted_namespace();

	if (sk) {
		if (!socket_is_ours(sk, wanted) || count_socket(&x0d_t_rst_out, sk, X0D_TRACE_RESETS_SENT))
			return 0;
		if (skb)
			count_sender(&x0d_t_rst_out, skb, X0D_TRACE_RESETS_SENT);
		return 0;
	}
	if (skb && packet_is_ours(skb, wanted))
		count_sender(&x0d_t_rst_out, skb, X0D_TRACE_RESETS_SENT);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(x0d_t_reset_in, const struct sock *sk)
{
	if (sk && socket_is_ours(sk, wanted_namespace()))
		count_socket(&x0d_t_rst_in, sk, X0D_TRACE_RESETS_RECEIVED);
	return 0;
}

/* ---- sockets ---- */

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(x0d_t_state, const struct sock *sk, int old_state, int new_state)
{
	__u32 is_ipv6, index;
	__u64 *count;

	if (!sk || sk->sk_protocol != IPPROTO_TCP || !socket_is_ours(sk, wanted_namespace()))
		return 0;
	is_ipv6 = sk->__sk_common.skc_family == FAMILY_IPV6;
	index = is_ipv6 * X0D_TRACE_STATES + (old_state & (X0D_TRACE_STATES - 1));
	index = index * X0D_TRACE_STATES + (new_state & (X0D_TRACE_STATES - 1));
	count = bpf_map_lookup_elem(&x0d_t_states, &index);
	if (count)
		*count += 1;
	return 0;
}

/* ---- run queue ---- */

static __always_inline void queue_task(const struct task_struct *task, __u64 now_ns)
{
	__u32 thread = task->pid;

	if (thread) /* 0 is what a CPU runs when it has nothing to do */
		bpf_map_update_elem(&x0d_t_queued, &thread, &now_ns, BPF_ANY);
}

static __always_inline bool is_running(const struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state == TASK_RUNNING;
	return BPF_CORE_READ((const struct task_struct___before_5_14 *)task, state) == TASK_RUNNING;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(x0d_t_wakeup, struct task_struct *task)
{
	queue_task(task, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(x0d_t_wakeup_new, struct task_struct *task)
{
	queue_task(task, bpf_ktime_get_ns());
	return 0;
}

/* Who is taken off the CPU and could have gone on waits from now; who gets the CPU has waited till now. */
SEC("tp_btf/sched_switch")
int BPF_PROG(x0d_t_switch, bool preempted, struct task_struct *previous, struct task_struct *next)
{
	__u64 now_ns = bpf_ktime_get_ns(), *queued_at, waited_ns;
	__u32 zero = 0, thread = next->pid;
	struct x0d_trace_histogram *histogram;

	if (preempted || is_running(previous))
		queue_task(previous, now_ns);
	queued_at = bpf_map_lookup_elem(&x0d_t_queued, &thread);
	if (!queued_at)
		return 0;
	/* The clocks of two CPUs may be some ns apart. */
	waited_ns = now_ns > *queued_at ? now_ns - *queued_at : 0;
	bpf_map_delete_elem(&x0d_t_queued, &thread);
	histogram = bpf_map_lookup_elem(&x0d_t_runq, &zero);
	if (histogram)
		X0D_TRACE_OBSERVE(histogram, waited_ns);
	return 0;
}
