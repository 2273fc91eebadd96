"""Small kernel programs for tests: C compiled on the spot, with the same flags as our own."""

import platform
import subprocess
from pathlib import Path

FLAGS = ("-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v2")
HEADERS = f"/usr/include/{platform.machine()}-linux-gnu"
"""Where Debian keeps asm/, which the BPF target has none of."""

PRELUDE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define MAP(name, entries) struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, entries); \\
        __type(key, __u32); __type(value, __u64); } name SEC(".maps")
"""
LICENCE = 'char LICENSE[] SEC("license") = "GPL";\n'
PASSING = 'SEC("xdp") int passing(struct xdp_md *ctx) { return XDP_PASS; }\n'
COUNT = """
MAP(first, 16); MAP(second, 32);
SEC("xdp") int counting(struct xdp_md *ctx) { __u32 key = 0; return bpf_map_lookup_elem(&first, &key) ? 1 : 2; }
SEC("xdp") int dropping(struct xdp_md *ctx) { __u32 key = 0; return bpf_map_lookup_elem(&second, &key) ? 2 : 1; }
"""
REJECTED = """
MAP(only, 16);
SEC("xdp") int careless(struct xdp_md *ctx) { __u32 key = 0; return *(int *)bpf_map_lookup_elem(&only, &key); }
"""
LAYOUT = 'const __u32 stated_layout SEC("x0d_layout") = {version};\n'


def compile_c(source: str, directory: Path, *, flags: tuple[str, ...] = FLAGS) -> bytes:
    """Compile C that begins after PRELUDE; returns the object's bytes."""
    written, made = directory / "tiny.bpf.c", directory / "tiny.bpf.o"
    written.write_text(PRELUDE + source)
    subprocess.run(["clang", *flags, "-idirafter", HEADERS, "-c", written, "-o", made], check=True)
    return made.read_bytes()
