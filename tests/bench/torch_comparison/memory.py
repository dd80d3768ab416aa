"""Memory of processes as the kernel counts it: the high-water mark of one, and the largest sum of proportional set sizes (Pss) of several that
share pages, which is looked at a few times a second."""

import threading

INTERVAL = 0.2  # seconds; looking costs the process some milliseconds, so timed steps run without


def _kibibytes(path, key):
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        pass
    return 0


def high_water(pid):
    """Bytes: the most that the process ever had resident (VmHWM)."""
    return 1024 * _kibibytes(f"/proc/{pid}/status", "VmHWM")


def _pss(pid):
    return 1024 * _kibibytes(f"/proc/{pid}/smaps_rollup", "Pss")


def descendants(pid, name):
    """The processes below pid whose command has this name."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
        for child in children:
            with open(f"/proc/{child}/comm", encoding="ascii") as file:
                if file.read().strip() == name:
                    found.append(child)
            found += descendants(child, name)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


class PssWatch:
    """Inside `with PssWatch(pids) as watch:` the processes that pids() names are looked at; watch.most is their largest sum in bytes."""

    def __init__(self, pids):
        self.pids, self.most = pids, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._over.wait(INTERVAL):
            self.most = max(self.most, sum(_pss(pid) for pid in self.pids()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
