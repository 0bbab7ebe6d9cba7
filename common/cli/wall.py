"""The wall around a submission: `python -I -S wall.py PLAN COMMAND …` runs COMMAND behind it. Linux.

Namespaces of its own, which need no rights on most systems: a network of loopback alone; process ids, so that
all that a submission starts ends with it; and a file system that holds Python, the libraries and the shadow
tree, read only, and nothing else of this machine: no reference, no other submission, no home folder. What is
written goes to memory. Limits of memory, processor, processes and file sizes lie inside of that. PLAN:

    {"walled": false leaves the limits alone, "stand": an empty folder, "cwd": where COMMAND runs,
     "shown": [path, …] read only, "hidden": [path, …] within them, "written": [file, …] that stay,
     "scratch": [folder, …] within what is shown, to be written and lost, "space": bytes for what is written,
     "core": the processor to run on, or null,
     "limits": {"DATA": bytes, "FSIZE": bytes, "CPU": seconds, "NPROC": n, "NOFILE": n, "CORE": 0}}

Three processes: this one waits outside and can be killed at any time; the second is the first of the new
namespace, builds the root, and takes everything with it when it ends; the third becomes COMMAND, without a
right in the world.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress

NAMESPACES = (
    0x10000000 | 0x20000 | 0x20000000 | 0x40000000 | 0x8000000 | 0x4000000
)  # user mnt pid net ipc uts
NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
READ_ONLY = struct.pack("4Q", 1 | 2, 0, 0, 0)  # read only, no suid
MOUNT_SETATTR, AT_RECURSIVE, AT_CWD = 442, 0x8000, -100
PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
DIE_WITH_PARENT, NO_NEW_RIGHTS = 1, 38  # of prctl
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys/devices/system")
FAILED = 125  # the exit code where the wall could not be built
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """OSError with the system's words where a call of the C library failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def show(source: str, root: str) -> None:
    """A file or folder of this machine at its own place below the new root, read only with all in it."""
    target = root + source
    if os.path.islink(source) and source in SYSTEM:  # /bin -> usr/bin
        os.symlink(os.readlink(source), target)
        return
    stand_in(source, target)
    mount(source, target, None, BIND | REC)
    where, size = ctypes.c_long(AT_CWD), ctypes.c_size_t(len(READ_ONLY))
    done = libc.syscall(MOUNT_SETATTR, where, target.encode(), AT_RECURSIVE, READ_ONLY, size)
    check(done, f"make {target} read only")


def stand_in(source: str, target: str) -> None:
    """Something to mount over: a folder for a folder, a file for a file."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "ab").close()


def build(plan: dict) -> None:
    """The new root, and everything else of the machine out of sight."""
    root, space = plan["stand"], f"size={plan['space']},mode=1777"
    mount("none", "/", None, REC | PRIVATE)
    mount("wall", root, "tmpfs", NOSUID | NODEV, "mode=755")
    for place in ("tmp", "dev/shm"):
        os.makedirs(f"{root}/{place}")
        mount("wall", f"{root}/{place}", "tmpfs", NOSUID | NODEV, space)
    shown = dict.fromkeys((*SYSTEM, *plan["shown"]), True) | dict.fromkeys(plan["hidden"], False)
    for path in sorted(filter(os.path.exists, shown), key=lambda path: path.count("/")):
        if shown[path]:
            show(path, root)
        elif os.path.isdir(root + path):
            mount("wall", root + path, "tmpfs", NOSUID | NODEV, "size=64k,mode=755")
    for path in plan["scratch"]:
        mount("wall", root + path, "tmpfs", NOSUID | NODEV, space)
    for path in (*(f"/dev/{name}" for name in DEVICES), *plan["written"]):
        stand_in(path, root + path)
        mount(path, root + path, None, BIND)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    os.makedirs(f"{root}/proc")
    mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    names = f"{root}/proc/sys/user/max_user_namespaces"
    with suppress(OSError), open(names, "w") as file:  # else it may make some of its own inside
        file.write("0")
    os.makedirs(f"{root}/before")
    check(libc.syscall(PIVOT_ROOT, root.encode(), f"{root}/before".encode()), "pivot_root")
    os.chdir("/")
    check(libc.umount2(b"/before", 2), "leave the machine")
    os.rmdir("/before")
    loopback()


def loopback() -> None:
    """Switch on the one interface of a new network: tests of servers talk with themselves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sH22x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def enter(inside: int) -> None:
    """New namespaces for this process; another one, which stays outside, writes who is who in them.

    Root is 0 in there, to build, and `inside` is a user that nobody else is; anybody else is only himself.
    """
    me, user, group = os.getpid(), os.geteuid(), os.getegid()
    users = [f"0 0 1\n{inside} {inside} 1", f"{user} {user} 1"][user != 0]
    groups = [f"0 0 1\n{inside} {inside} 1", f"{group} {group} 1"][user != 0]
    (listen, tell), writer = os.pipe(), os.fork()
    if writer == 0:
        os.close(tell)
        if os.read(listen, 1):
            deny = [] if user == 0 else [("setgroups", "deny")]  # else a group of his own may not be written
            for name, text in (*deny, ("uid_map", users), ("gid_map", groups)):
                with open(f"/proc/{me}/{name}", "w") as file:
                    file.write(text)
        os._exit(0)
    os.close(listen)
    check(libc.unshare(NAMESPACES), "new namespaces")
    os.write(tell, b"1")
    os.close(tell)
    if os.waitpid(writer, 0)[1]:
        raise OSError("the user of a new namespace could not be written")


def limit(limits: dict[str, int]) -> None:
    """Limits that hold for this process and what it starts; none above what holds already."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            most = resource.getrlimit(kind)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))


def first(plan: dict, command: list[str], inside: int, answer: int) -> None:
    """The first process of the namespace: builds, starts the command, and tells how that ended."""
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    build(plan)
    child = os.fork()
    if child == 0:
        os.close(answer)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(inside, inside, inside)
            os.setresuid(inside, inside, inside)
        become(plan, command)
    ended, status = os.wait()
    while ended != child:  # orphans come here to be fetched
        ended, status = os.wait()
    os.write(answer, struct.pack("i", status))
    os._exit(0)


def become(plan: dict, command: list[str]) -> None:
    """This process turns into the command."""
    os.chdir(plan["cwd"])
    limit(plan["limits"])
    if sys.platform == "linux":
        check(libc.prctl(NO_NEW_RIGHTS, 1, 0, 0, 0), "no new rights")
    os.execv(command[0], command)


def main() -> None:
    plan, command = json.loads(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        with open(
            "/proc/self/oom_score_adj", "w"
        ) as file:  # where memory runs out, the system takes this one
            file.write("1000")
        if plan["core"] is not None:
            os.sched_setaffinity(0, {plan["core"]})
    if not plan["walled"]:
        become(plan, command)
    inside = 100_000 + os.getpid()
    enter(inside)
    (listen, tell), child = os.pipe(), os.fork()
    if child == 0:
        os.close(listen)
        first(plan, command, inside, tell)
    os.close(tell)
    said = os.read(listen, 4)
    os.waitpid(child, 0)
    if len(said) < 4:  # it ended without a word: the building failed, and stderr says why
        sys.exit(FAILED)
    status = struct.unpack("i", said)[0]
    if os.WIFSIGNALED(status):
        limit({"CORE": 0})
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(f"the wall: {error}", file=sys.stderr)
        os._exit(FAILED)
