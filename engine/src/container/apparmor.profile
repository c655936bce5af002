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

  # A refusal outdoes every permission, so that what may be written has to be left out of the patterns, letter by letter.
  # Of /proc that is what belongs to a process, and the limits of shared memory.
  deny /proc/* w,
  deny /proc/{[^0-9s],s[^y],sy[^s],sys[^/]}*/** w,
  deny /proc/sys/{[^k],k[^e],kernel/[^s],kernel/s[^h],kernel/sh[^m]}** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # Of /sys, control groups.
  deny /sys/{[^f],f[^s],fs/[^c],fs/c[^g],fs/cg[^r]}*/** wklx,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** rwklx,
}
