"""Classify the Q-Net maps of a DICOM study under MONAI Deploy:

    python apps/deploy -i STUDY -o OUT -m MODEL

STUDY is a folder of DICOM files, MODEL the bundle's folder (or a folder that holds it). OUT gets what `README.md` says.
"""

import os
import resource
import sys

#: Holoscan's scheduler puts large objects on the stack: it needs 32 MiB.
STACK_BYTES = 32768 * 1024


def enlarge_stack() -> None:
    """Start this process again with a larger stack, since the limit counts from a process's start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft == resource.RLIM_INFINITY or soft >= STACK_BYTES:
        return
    if hard != resource.RLIM_INFINITY and hard < STACK_BYTES:
        sys.exit(f"error: the stack is limited to {hard // 1024} KiB; raise it with `ulimit -H -s 32768` as root")
    resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    enlarge_stack()
    from application import main

    main()
