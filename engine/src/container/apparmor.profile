# What a container's programs may do where nothing else is said. What Docker's profile of this name refuses is refused.
profile docker-default flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  unix,
  capability,
  umount,

  # The engine, which is not confined, ends programs, and looks at them; they do as they like among themselves.
  signal (receive) peer=unconfined,
  signal (receive) set=(exists),
  signal (send, receive) peer=docker-default,
  ptrace (readby, tracedby) peer=unconfined,
  ptrace peer=docker-default,

  deny mount,

  # Of /proc only what belongs to a process is written to, and the limits of shared memory.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # Of /sys only control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
