/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * How long system calls take: one in so many is timed between its entry and its return.  It slows every system call of
 * the machine, so it is loaded for a measurement only, and ends by itself at a deadline even if nobody unloads it.
 *
 * An object of its own, without CO-RE: raw tracepoints need no BTF of the kernel, and the tables are large.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "trace.h"

char LICENSE[] SEC("license") = "GPL";

const __u32 layout_version SEC("x0d_layout") = X0D_LAYOUT_VERSION;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct x0d_trace_timebox);
} x0d_t_timebox SEC(".maps");

/* Calls since the last one that was taken. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} x0d_t_passed SEC(".maps");

/* A thread that is killed in a call leaves its entry: the least recently used goes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, X0D_TRACE_CALLS_MAX);
	__type(key, __u32);
	__type(value, struct x0d_trace_call);
} x0d_t_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, X0D_TRACE_SYSCALLS_MAX);
	__type(key, __u32);
	__type(value, struct x0d_trace_histogram);
} x0d_t_syscalls SEC(".maps");

/* Arguments: registers, number of the call. */
SEC("raw_tp/sys_enter")
int x0d_t_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 zero = 0, thread = bpf_get_current_pid_tgid(), number = ctx->args[1];
	struct x0d_trace_timebox *box = bpf_map_lookup_elem(&x0d_t_timebox, &zero);
	struct x0d_trace_call call = { .number = number };
	__u32 *passed;

	if (!box || !box->until_ns)
		return 0;
	passed = bpf_map_lookup_elem(&x0d_t_passed, &zero);
	if (!passed || ++*passed < box->sample_every)
		return 0;
	*passed = 0;
	if (number == box->never_return[0] || number == box->never_return[1])
		return 0;
	/* The clock costs as much as the rest, so only calls that are taken read it. */
	call.at_ns = bpf_ktime_get_ns();
	if (call.at_ns >= box->until_ns) {
		box->until_ns = 0;
		return 0;
	}
	bpf_map_update_elem(&x0d_t_calls, &thread, &call, BPF_ANY);
	return 0;
}

/* Arguments: registers, what the call returns.  Calls that began in time are measured past the deadline. */
SEC("raw_tp/sys_exit")
int x0d_t_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 thread = bpf_get_current_pid_tgid();
	struct x0d_trace_call *call = bpf_map_lookup_elem(&x0d_t_calls, &thread);
	struct x0d_trace_histogram *histogram;
	__u64 took_ns;
	__u32 number;

	(void)ctx;
	if (!call)
		return 0;
	took_ns = bpf_ktime_get_ns() - call->at_ns;
	number = call->number < X0D_TRACE_SYSCALLS_MAX ? call->number : X0D_TRACE_SYSCALLS_MAX - 1;
	bpf_map_delete_elem(&x0d_t_calls, &thread);
	histogram = bpf_map_lookup_elem(&x0d_t_syscalls, &number);
	if (histogram)
		X0D_TRACE_OBSERVE(histogram, took_ns);
	return 0;
}
