"""What each process may ask of the kernel, as tables to read. `seccomp.py` compiles them; nothing here acts.

A filter is an allow list: what is not named gets ENOSYS, as if the kernel were older, so that libcs fall back and
a system call invented after this file was written is not granted by it. Three answers, each deliberate:

  allow    works                    (some only with certain arguments: `only_if`)
  deny     EPERM: programs should see that they may not
  absent   ENOSYS: programs have a fallback, or nobody has used it for twenty years

`refuse` takes arguments away from allowed calls and is asked first. It is compiled on its own, because libseccomp drops
a condition when the same call is also allowed without one.
A foreign architecture (int $0x80, x32) is killed: its numbers mean other calls, and no program here needs it.

Pointers cannot be followed by a filter. So calls whose arguments stand in memory are absent: clone3 (flags), openat2
(mode). Numbers and constants are those of x86_64 and aarch64, which agree on all that is used here.
"""

from __future__ import annotations

import errno

from supervisor.kernel.rules import INT, Arg, Filter, Rule, bit, group, outside, rules

# --- groups that several filters share -------------------------------------------------------------------------

DESCRIPTORS = group(
    "reading, writing and waiting on what is already open",
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3"
    " fcntl flock fstat fsync fdatasync ioctl poll ppoll select pselect6"
    " epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 pipe pipe2",
)
LOOKING = group(
    "looking at paths; Landlock and the mount tree say which",
    "open openat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents getdents64"
    " getcwd statfs fstatfs umask",
)
MEMORY = group(
    "memory of one's own",
    "brk mmap munmap mprotect mremap madvise mincore msync membarrier mlock munlock mseal map_shadow_stack"
    " pkey_alloc pkey_free pkey_mprotect get_mempolicy",
)
THREADS = group(
    "being a thread: start-up, scheduling hints, locks, ending",
    "arch_prctl set_tid_address set_robust_list get_robust_list rseq gettid getpid getppid sched_yield"
    " sched_getaffinity sched_getparam sched_getscheduler sched_getattr sched_get_priority_max"
    " sched_get_priority_min sched_rr_get_interval getcpu"
    " futex futex_waitv futex_wait futex_wake futex_requeue exit exit_group",
)
SIGNALS_AND_TIME = group(
    "signals to oneself, clocks and timers",
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack tgkill"
    " restart_syscall pause signalfd signalfd4 alarm setitimer getitimer nanosleep clock_nanosleep clock_gettime"
    " clock_getres gettimeofday time times timer_create timer_settime timer_gettime timer_getoverrun timer_delete"
    " timerfd_create timerfd_settime timerfd_gettime",
)
IDENTITY = group(
    "asking who one is, and how much one may use",
    "getuid geteuid getgid getegid getresuid getresgid getgroups getpgid getpgrp getsid capget uname sysinfo"
    " getrusage getrlimit prlimit64 getpriority getrandom",
)
NARROWING = group("can only take away from the caller itself", "seccomp landlock_create_ruleset landlock_add_rule"
                  " landlock_restrict_self")  # fmt: skip
PROBES = group(
    "the kernel's own trampoline calls it where an administrator traces a function; elsewhere it ends the caller",
    "uretprobe",
)

MOUNTS = group(
    "the mount tree is what confines; nobody inside may change it or look at it through another",
    "mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr",
)
NAMESPACES = group("new namespaces give back capabilities, and with them most of the kernel", "unshare setns")
OTHER_PROCESSES = group(
    "reading, writing or steering another process, even one's own child",
    "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp migrate_pages move_pages",
)
KERNEL_DOORS = group(
    "large or young interfaces with a history of holes; io_uring also performs calls that no filter sees",
    "bpf perf_event_open keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register userfaultfd"
    " memfd_secret fanotify_init fanotify_mark name_to_handle_at open_by_handle_at modify_ldt lookup_dcookie",
)
HOST = group(
    "settings and services of the whole machine",
    "init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load kexec_file_load"
    " reboot swapon swapoff quotactl quotactl_fd acct syslog settimeofday clock_settime clock_adjtime adjtimex"
    " iopl ioperm sethostname setdomainname vhangup nfsservctl lsm_set_self_attr",
)
HIDDEN_ARGUMENTS = group("what they do stands behind a pointer; libcs and libraries fall back", "clone3 openat2")
OBSOLETE = group(
    "dead or never built",
    "_sysctl afs_syscall epoll_ctl_old epoll_wait_old get_thread_area getpmsg putpmsg remap_file_pages security"
    " set_thread_area sysfs tuxcall uselib ustat vserver uprobe",
)
UNNEEDED = group(
    "new ways of asking what older calls answer, or for supervisors of other processes",
    "listmount statmount listns lsm_get_self_attr lsm_list_modules process_mrelease file_setattr",
)
NATIVE_AIO = group(
    "its contexts count against one limit of the whole host (fs.aio-max-nr), so one sandbox could starve another",
    "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
)

# --- refusals by argument --------------------------------------------------------------------------------------

S_ISUID, S_ISGID = 0o4000, 0o2000
O_CREAT, O_TMPFILE_BIT = 0o100, 0o20000000
S_IFMT, S_IFCHR, S_IFBLK = 0o170000, 0o020000, 0o060000

_SETID_WHY = (
    "a set-id file that a run leaves in the workspace would act as the workspace's owner for whoever starts it."
    " On directories too, where the bit only hands down a group: a filter cannot tell them apart"
)


def _setid(names: str, index: int, *also: Arg) -> tuple[Rule, ...]:
    return rules(_SETID_WHY, names, *((bit(index, s), *also) for s in (S_ISUID, S_ISGID)))


NO_SETID_BITS = (
    *(r for make in (O_CREAT, O_TMPFILE_BIT) for r in _setid("open", 2, bit(1, make))),
    *(r for make in (O_CREAT, O_TMPFILE_BIT) for r in _setid("openat", 3, bit(2, make))),
    *_setid("creat chmod fchmod mkdir mknod", 1),
    *_setid("fchmodat fchmodat2 mkdirat mknodat", 2),
)

RENAME_WHITEOUT = 0x4
NO_DEVICE_NODES = (
    *rules("device nodes", "mknod", *((Arg(1, kind, S_IFMT),) for kind in (S_IFCHR, S_IFBLK))),
    *rules("device nodes", "mknodat", *((Arg(2, kind, S_IFMT),) for kind in (S_IFCHR, S_IFBLK))),
    *rules("leaves a character device, which Landlock is not asked about", "renameat2", (bit(4, RENAME_WHITEOUT),)),
)

CLONE_THREAD = 0x00010000
CLONE_NEW = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}  # CLONE_NEWTIME shares its bit with the exit signal; clone(2) cannot ask for it
NO_NEW_NAMESPACES = rules(NAMESPACES.why, "clone", *((bit(0, flag),) for flag in CLONE_NEW.values()))

TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD = 0x5412, 0x541C, 0x541D, 0x5423
FS_IOC_FSSETXATTR = 0x401C5820
NO_TERMINAL_TRICKS = (
    *rules(
        "typing into a terminal that someone else reads, taking the console, loading line disciplines",
        "ioctl",
        *((Arg(1, command),) for command in (TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD)),
    ),
    *rules("project ids carry disk quotas, and an owner may change them", "ioctl", (Arg(1, FS_IOC_FSSETXATTR),)),
)

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_TYPE_MASK, SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 0xF, 1, 2, 5
IPPROTO_TCP, IPPROTO_UDP = 6, 17


def _families(*allowed: int) -> tuple[Rule, ...]:
    why = "netlink, packet, vsock, alg, bluetooth and the rest are roads into the kernel, not to the network"
    return rules(why, "socket socketpair", *outside(0, set(allowed)), errno=errno.EAFNOSUPPORT)


NO_RAW_SOCKETS = (
    *rules(
        "raw, rdm, dccp and packet sockets",
        "socket socketpair",
        *(
            (Arg(1, kind, SOCK_TYPE_MASK),)
            for kind in range(SOCK_TYPE_MASK + 1)
            if kind not in {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}
        ),
    ),
    *rules(
        "only TCP and UDP: SCTP, MPTCP and SMC streams pass by Landlock's TCP rights, ICMP is not needed",
        "socket",
        *outside(2, {0, IPPROTO_TCP, IPPROTO_UDP}),
        errno=errno.EPROTONOSUPPORT,
    ),
)

SOL_SOCKET, SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 1, 26, 51
NO_SOCKET_PROGRAMS = rules(
    "a BPF program for the kernel by the socket's door, as bpf(2) is closed",
    "setsockopt",
    *((Arg(1, SOL_SOCKET), Arg(2, option)) for option in (SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF)),
)

MFD_HUGETLB, MFD_EXEC = 0x4, 0x10
MAP_HUGETLB, SHM_HUGETLB = 0x40000, 0o4000
NO_HUGE_PAGES = (
    *rules("the host's reserved huge pages are outside the memory limit", "mmap", (bit(3, MAP_HUGETLB),),
           errno=errno.ENOMEM),
    *rules("as mmap", "memfd_create", (bit(1, MFD_HUGETLB),), errno=errno.ENOMEM),
    *rules("as mmap", "shmget", (bit(2, SHM_HUGETLB),), errno=errno.ENOMEM),
)  # fmt: skip
NO_EXECUTABLE_MEMFD = rules(
    "a program in memory has no path that Landlock's EXECUTE could judge; the PID namespace's vm.memfd_noexec makes"
    " a memfd without this flag not executable",
    "memfd_create",
    (bit(1, MFD_EXEC),),
)

# --- prctl(2) and personality(2): the harmless ones by number ---------------------------------------------------

PR_SET_MM, PR_SET_IO_FLUSHER, PR_SCHED_CORE, PR_SET_MEMORY_MERGE = 35, 57, 62, 67
PRCTL_OWN_PROCESS = (
    *range(1, 5),  # PDEATHSIG, DUMPABLE
    7, 8,  # KEEPCAPS: there is nothing to keep
    13, 14, 15, 16, 19,  # TIMING, NAME, ENDIAN
    21, 22,  # SECCOMP
    23, 24, 27, 28, 47,  # CAPBSET, SECUREBITS, CAP_AMBIENT: reading, and giving up
    25, 26,  # TSC
    29, 30, 31, 32,  # TIMERSLACK, TASK_PERF_EVENTS
    33, 34, 36, 37, 38, 39, 40,  # MCE_KILL, CHILD_SUBREAPER, NO_NEW_PRIVS, GET_TID_ADDRESS
    41, 42,  # THP_DISABLE
    50, 51, 54, 55, 56, 60, 61, 63, 64,  # aarch64: SVE, PAC, tagged addresses, SME
    52, 53,  # SPECULATION_CTRL: what the kernel forced stays forced
    58, 59,  # GET_IO_FLUSHER, SYSCALL_USER_DISPATCH (only reroutes one's own calls)
    65, 66, 68,  # MDWE, GET_MEMORY_MERGE
    74, 75, 76, 77, 78,  # shadow stack, TIMER_CREATE_RESTORE_IDS, FUTEX_HASH
    0x53564D41, 0x41555856,  # SET_VMA (names), GET_AUXV
    0x59616D61,  # SET_PTRACER: crash handlers end without it, and ptrace(2) itself is denied to all inside
)  # fmt: skip
SOME_PRCTL = rules("options that concern the calling process alone", "prctl",
                   *((Arg(0, option),) for option in PRCTL_OWN_PROCESS))  # fmt: skip
NO_PRCTL = rules(
    "PR_SET_MM forges what /proc says of a process; PR_SCHED_CORE and PR_SET_MEMORY_MERGE make side channels between"
    " processes; PR_SET_IO_FLUSHER reaches memory reserves",
    "prctl",
    *((Arg(0, option),) for option in (PR_SET_MM, PR_SET_IO_FLUSHER, PR_SCHED_CORE, PR_SET_MEMORY_MERGE)),
)

NO_LIMITS_OF_OTHERS = rules(
    "processes of one uid may lower each other's limits, and main and parser have one: 0 is the caller itself",
    "prlimit64",
    *((bit(0, 1 << n),) for n in range(32)),
)

ADDR_NO_RANDOMIZE = 0x0040000
SOME_PERSONALITY = rules(
    "asking (0xffffffff), the normal one, and a fixed address layout, which Lisp and other images need; every other"
    " weakens the process (READ_IMPLIES_EXEC, MMAP_PAGE_ZERO) or lies about the kernel",
    "personality",
    *((Arg(0, persona),) for persona in (0, INT, ADDR_NO_RANDOMIZE)),
)

# --- the filters -----------------------------------------------------------------------------------------------

_DENIED = (MOUNTS, NAMESPACES, OTHER_PROCESSES, KERNEL_DOORS, HOST)

TOOL = Filter(
    allow=(
        DESCRIPTORS, LOOKING, MEMORY, THREADS, SIGNALS_AND_TIME, IDENTITY, NARROWING, PROBES,
        group(
            "changing files and directories; Landlock says where, `refuse` which modes",
            "creat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat"
            " mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat truncate ftruncate fallocate"
            " utime utimes utimensat futimesat chdir fchdir sync syncfs sync_file_range fadvise64 readahead"
            " copy_file_range sendfile splice tee vmsplice cachestat inotify_init inotify_init1 inotify_add_watch"
            " inotify_rm_watch file_getattr",
        ),
        group(
            "extended attributes; those that the system trusts need capabilities",
            "setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr"
            " lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat",
        ),
        group(
            "starting programs, waiting for them, signalling them: the PID namespace holds nothing else",
            "clone fork vfork execve execveat wait4 waitid kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open"
            " pidfd_send_signal setpgid setsid",
        ),
        group(
            "changing ids, limits and priorities without any capability: down, or to what one already is",
            "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset setrlimit"
            " setpriority sched_setaffinity sched_setparam sched_setscheduler sched_setattr ioprio_get ioprio_set",
        ),
        group(
            "memory policies and locks of one's own",
            "mlock2 mlockall munlockall mbind set_mempolicy set_mempolicy_home_node",
        ),
        group("files without a name; withheld where nothing can keep them from being executed", "memfd_create"),
        group(
            "System V and POSIX IPC: the IPC namespace is the session's",
            "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl"
            " mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
        ),
        group(
            "sockets; `refuse` says which kinds, the network namespace where to",
            "socket socketpair connect bind listen accept accept4 getsockname getpeername getsockopt setsockopt"
            " sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown",
        ),
    ),
    deny=_DENIED,
    absent=(HIDDEN_ARGUMENTS, OBSOLETE, UNNEEDED, NATIVE_AIO),
    only_if=(*SOME_PRCTL, *SOME_PERSONALITY),
    refuse=(
        *NO_SETID_BITS, *NO_DEVICE_NODES, *NO_NEW_NAMESPACES, *NO_TERMINAL_TRICKS,
        *_families(AF_UNIX, AF_INET, AF_INET6), *NO_RAW_SOCKETS, *NO_SOCKET_PROGRAMS,
        *NO_HUGE_PAGES, *NO_EXECUTABLE_MEMFD, *NO_PRCTL,
    ),
)  # fmt: skip

_NO_PROGRAMS = group(
    "these processes start nothing; one that tries is not ours any more",
    "execve execveat fork vfork wait4 waitid kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
)

MAIN = Filter(
    allow=(
        DESCRIPTORS, LOOKING, MEMORY, THREADS, SIGNALS_AND_TIME, IDENTITY, NARROWING, PROBES,
        group("what is spooled and kept", "mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 fchmod"
              " ftruncate fallocate fadvise64 sendfile utimensat"),
        group("a caller's identity, before SO_PEERPIDFD", "pidfd_open"),
        group("the API's sockets and asyncio's own pair", "socket socketpair connect bind listen accept accept4"
              " getsockname getpeername getsockopt setsockopt sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg"
              " shutdown"),
    ),
    deny=(*_DENIED, _NO_PROGRAMS),
    absent=(HIDDEN_ARGUMENTS,),
    only_if=(*rules("threads only", "clone", (bit(0, CLONE_THREAD),)), *SOME_PRCTL),
    refuse=(
        *NO_SETID_BITS, *NO_NEW_NAMESPACES, *NO_TERMINAL_TRICKS, *_families(AF_UNIX), *NO_RAW_SOCKETS,
        *NO_SOCKET_PROGRAMS, *NO_HUGE_PAGES, *NO_PRCTL, *NO_LIMITS_OF_OTHERS,
        *rules("no new process", "clone", (Arg(0, 0, CLONE_THREAD),)),
    ),
)  # fmt: skip

AUDITOR = Filter(
    allow=(
        DESCRIPTORS, LOOKING, MEMORY, THREADS, SIGNALS_AND_TIME, IDENTITY, NARROWING, PROBES,
        group("its three peers, connected before", "sendto recvfrom sendmsg recvmsg shutdown getsockopt getsockname"
              " getpeername"),
        group("a full log file makes room for the next; nothing is removed", "rename renameat renameat2"),
        group("an append that failed half-way is taken back, on the descriptor it holds", "ftruncate"),
    ),
    deny=(
        *_DENIED,
        _NO_PROGRAMS,
        group("no connection of its own, no thread", "socket socketpair connect bind listen accept accept4 clone"),
        group("the record is only ever appended to", "unlink unlinkat rmdir truncate fallocate"
              " link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2"),
    ),
    absent=(HIDDEN_ARGUMENTS,),
    only_if=SOME_PRCTL,
    refuse=(*NO_SETID_BITS, *NO_TERMINAL_TRICKS, *NO_HUGE_PAGES, *NO_PRCTL, *NO_LIMITS_OF_OTHERS),
)  # fmt: skip

O_ACCMODE, O_WRONLY, O_RDWR, O_TRUNC = 0o3, 0o1, 0o2, 0o1000


def _only_reading(names: str, index: int) -> tuple[Rule, ...]:
    why = "it has nothing to write but its pipes and its socket, and makes no file"
    changing = (
        Arg(index, O_WRONLY, O_ACCMODE),
        Arg(index, O_RDWR, O_ACCMODE),
        bit(index, O_CREAT),
        bit(index, O_TRUNC),
    )
    return rules(why, names, *((condition,) for condition in changing))


PARSER = Filter(
    allow=(
        DESCRIPTORS, LOOKING, MEMORY, THREADS, SIGNALS_AND_TIME, IDENTITY, NARROWING, PROBES,
        group("its one peer, connected before", "sendto recvfrom sendmsg recvmsg shutdown getsockopt getsockname"
              " getpeername"),
        group("starting shfmt, which Landlock says is the only program, bounding it, waiting for it, ending it",
              "clone fork vfork execve wait4 waitid kill pidfd_open pidfd_send_signal setsid setpgid setrlimit chdir"),
    ),
    deny=(
        *_DENIED,
        group("no connection of its own", "socket socketpair connect bind listen accept accept4"),
        group("no change of any file", "creat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat"
              " symlink symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat truncate"
              " ftruncate fallocate utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"),
        group("no program that has no path", "execveat memfd_create"),
    ),
    absent=(HIDDEN_ARGUMENTS,),
    only_if=SOME_PRCTL,
    refuse=(
        *_only_reading("open", 1), *_only_reading("openat", 2), *NO_NEW_NAMESPACES, *NO_TERMINAL_TRICKS,
        *NO_HUGE_PAGES[:1], *NO_PRCTL, *NO_LIMITS_OF_OTHERS,
    ),
)  # fmt: skip

FILTERS = {"tool": TOOL, "main": MAIN, "auditor": AUDITOR, "parser": PARSER}
