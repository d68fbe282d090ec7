/* Ends a process between two of its file operations, or lets the disk be full from one of them on.
 *
 * Loaded by LD_PRELOAD. After interrupt_at(folder, n, how) every operation that changes something under the folder counts. The
 * n-th one does not happen: the process ends in its place (how = 1), or it and all that need room after it fail with ENOSPC
 * (how = 2). Of a write half of the bytes get through first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NEVER, DIE, FULL };

static char folder[PATH_MAX];
static long left;
static long seen;
static int how = NEVER;

void interrupt_at(const char *where, long n, int what)
{
    snprintf(folder, sizeof folder, "%s", where);
    left = n;
    seen = 0;
    how = what;
}

long interrupt_seen(void) { return seen; }

static int is_inside(int dir, const char *path)
{
    char whole[PATH_MAX + 8] = "", link[64];
    if (how == NEVER)
        return 0;
    if (path == NULL || path[0] != '/') {
        if (dir == AT_FDCWD)
            return 0;
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t length = readlink(link, whole, PATH_MAX);
        if (length < 0)
            return 0;
        whole[length] = 0;
        path = whole;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether this operation is the one that fails, or one after it on a full disk. */
static int is_hit(int dir, const char *path, int needs_room)
{
    if (!is_inside(dir, path))
        return 0;
    __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) > 0)
        return 0;
    return how == DIE || needs_room;
}

static int fail(void)
{
    if (how == DIE)
        _exit(77);
    errno = ENOSPC;
    return -1;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                               \
    int name(const char *path, int flags, ...)                                                                                   \
    {                                                                                                                            \
        va_list rest;                                                                                                            \
        va_start(rest, flags);                                                                                                   \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                                  \
        va_end(rest);                                                                                                            \
        if (flags & (O_CREAT | O_TRUNC) && is_hit(AT_FDCWD, path, flags & O_CREAT && access(path, F_OK) != 0))                   \
            return fail();                                                                                                       \
        return REAL(name, int (*)(const char *, int, mode_t))(path, flags, mode);                                                \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                             \
    int name(int dir, const char *path, int flags, ...)                                                                          \
    {                                                                                                                            \
        va_list rest;                                                                                                            \
        va_start(rest, flags);                                                                                                   \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                                  \
        va_end(rest);                                                                                                            \
        if (flags & (O_CREAT | O_TRUNC) && is_hit(dir, path, flags & O_CREAT && faccessat(dir, path, F_OK, 0) != 0))             \
            return fail();                                                                                                       \
        return REAL(name, int (*)(int, const char *, int, mode_t))(dir, path, flags, mode);                                      \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t count)
{
    ssize_t (*real)(int, const void *, size_t) = REAL(write, ssize_t (*)(int, const void *, size_t));
    if (is_hit(file, NULL, 1)) {
        if (how == FULL && left < 0)
            return fail();
        ssize_t half = real(file, bytes, count / 2);
        return how == DIE || half <= 0 ? fail() : half;
    }
    return real(file, bytes, count);
}

#define PWRITE(name, offset)                                                                                                     \
    ssize_t name(int file, const void *bytes, size_t count, offset at)                                                           \
    {                                                                                                                            \
        ssize_t (*real)(int, const void *, size_t, offset) = REAL(name, ssize_t (*)(int, const void *, size_t, offset));         \
        if (is_hit(file, NULL, 1)) {                                                                                             \
            if (how == DIE)                                                                                                      \
                real(file, bytes, count / 2, at);                                                                                \
            return fail();                                                                                                       \
        }                                                                                                                        \
        return real(file, bytes, count, at);                                                                                     \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PLAIN(name, parameters, arguments, dir, path, needs_room)                                                                \
    int name parameters                                                                                                          \
    {                                                                                                                            \
        if (is_hit(dir, path, needs_room))                                                                                       \
            return fail();                                                                                                       \
        return REAL(name, int(*) parameters) arguments;                                                                          \
    }
PLAIN(rename, (const char *from, const char *to), (from, to), AT_FDCWD, to, 0)
PLAIN(renameat, (int d, const char *from, int e, const char *to), (d, from, e, to), e, to, 0)
PLAIN(renameat2, (int d, const char *from, int e, const char *to, unsigned f), (d, from, e, to, f), e, to, 0)
PLAIN(unlink, (const char *path), (path), AT_FDCWD, path, 0)
PLAIN(unlinkat, (int d, const char *path, int f), (d, path, f), d, path, 0)
PLAIN(rmdir, (const char *path), (path), AT_FDCWD, path, 0)
PLAIN(remove, (const char *path), (path), AT_FDCWD, path, 0)
PLAIN(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, 1)
PLAIN(mkdirat, (int d, const char *path, mode_t mode), (d, path, mode), d, path, 1)
PLAIN(symlink, (const char *to, const char *path), (to, path), AT_FDCWD, path, 1)
PLAIN(ftruncate, (int file, off_t size), (file, size), file, NULL, 0)
PLAIN(ftruncate64, (int file, off64_t size), (file, size), file, NULL, 0)
PLAIN(fsync, (int file), (file), file, NULL, 0)
PLAIN(fdatasync, (int file), (file), file, NULL, 0)
