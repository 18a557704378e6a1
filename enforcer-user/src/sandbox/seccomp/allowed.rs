//! System calls that the daemon needs, with the arguments that matter.

use aya_obj::generated::bpf_cmd;
use seccompiler::{
    BackendError, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompRule,
};

use super::Rules;

/// `TUNSETIFF` (`<linux/if_tun.h>`) makes the helper interface.
const TUNSETIFF: u64 = 0x4004_54ca;

/// What a new thread may not get for itself (clone(2)).
const NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;

/// Commands of bpf(2): maps, programs, links and pins of our own. Opening those of others by their
/// number is not among them.
const BPF: [bpf_cmd; 22] = [
    bpf_cmd::BPF_MAP_CREATE,
    bpf_cmd::BPF_MAP_LOOKUP_ELEM,
    bpf_cmd::BPF_MAP_UPDATE_ELEM,
    bpf_cmd::BPF_MAP_DELETE_ELEM,
    bpf_cmd::BPF_MAP_GET_NEXT_KEY,
    bpf_cmd::BPF_MAP_LOOKUP_BATCH,
    bpf_cmd::BPF_MAP_UPDATE_BATCH,
    bpf_cmd::BPF_MAP_DELETE_BATCH,
    bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    bpf_cmd::BPF_MAP_FREEZE,
    bpf_cmd::BPF_PROG_LOAD,
    bpf_cmd::BPF_PROG_ATTACH,
    bpf_cmd::BPF_PROG_DETACH,
    bpf_cmd::BPF_PROG_QUERY,
    bpf_cmd::BPF_PROG_BIND_MAP,
    bpf_cmd::BPF_OBJ_PIN,
    bpf_cmd::BPF_OBJ_GET,
    bpf_cmd::BPF_OBJ_GET_INFO_BY_FD,
    bpf_cmd::BPF_BTF_LOAD,
    bpf_cmd::BPF_LINK_CREATE,
    bpf_cmd::BPF_LINK_UPDATE,
    bpf_cmd::BPF_LINK_DETACH,
];

/// The rules of the filter.
pub(super) fn rules() -> Result<Rules, BackendError> {
    let any = ANY.iter().chain(OLD).map(|call| (*call, Vec::new()));
    let mut rules: Rules = any.collect();
    let first = |value: libc::c_int| u64::from(value.unsigned_abs());
    let commands = BPF.map(|command| command as u64);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(first);
    let thread_name = [libc::PR_SET_NAME, libc::PR_GET_NAME].map(first);
    let requests = [
        TUNSETIFF,
        libc::FIONBIO,
        libc::FIONREAD,
        libc::FIOCLEX,
        libc::TCGETS,
        libc::SIOCGIFINDEX,
        libc::SIOCGIFFLAGS,
        libc::SIOCSIFFLAGS,
    ];
    rules.insert(libc::SYS_bpf, one_of(0, &commands)?);
    rules.insert(libc::SYS_socket, one_of(0, &families)?);
    rules.insert(libc::SYS_socketpair, one_of(0, &[first(libc::AF_UNIX)])?);
    rules.insert(libc::SYS_prctl, one_of(0, &thread_name)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    rules.insert(libc::SYS_clone, without(0, NAMESPACES)?);
    let executable = first(libc::PROT_EXEC);
    rules.insert(libc::SYS_mmap, without(2, executable)?);
    rules.insert(libc::SYS_mprotect, without(2, executable)?);
    Ok(rules)
}

/// The argument of this index is one of these.
fn one_of(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| rule(index, Is::Eq, *value)).collect()
}

/// The argument of this index has none of these bits.
fn without(index: u8, bits: u64) -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![rule(index, Is::MaskedEq(bits), 0)?])
}

fn rule(index: u8, is: Is, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![Condition::new(index, Length::Dword, is, value)?])
}

/// With any argument.
const ANY: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, their clocks and their ends.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Who and where we are.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcwd,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    // Files.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
];

/// Older forms of the above, which newer processors lack and some C libraries use.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lchown,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// Newer processors have no older forms.
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];
