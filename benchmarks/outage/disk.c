/* A disk that hangs or fails: preloaded, it does so for writes and syncs of files under $DISK_UNDER while the
 * file $DISK_WHILE exists. With $DISK_ERRNO they fail with that error; without it they do not return. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int concerns(int file)
{
    const char *under = getenv("DISK_UNDER");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return under && length >= (ssize_t)strlen(under) && strncmp(path, under, strlen(under)) == 0;
}

static int fails(int file)
{
    const char *trigger = getenv("DISK_WHILE"), *error = getenv("DISK_ERRNO");
    while (trigger && access(trigger, F_OK) == 0 && concerns(file)) {
        if (error) {
            errno = atoi(error);
            return 1;
        }
        usleep(20000);
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(type, name, parameters, arguments) \
    type name parameters { return fails(file) ? -1 : REAL(name) arguments; }

FAULTY(ssize_t, write, (int file, const void *bytes, size_t size), (file, bytes, size))
FAULTY(ssize_t, pwrite, (int file, const void *bytes, size_t size, off_t at), (file, bytes, size, at))
FAULTY(ssize_t, pwrite64, (int file, const void *bytes, size_t size, off64_t at), (file, bytes, size, at))
FAULTY(int, ftruncate, (int file, off_t size), (file, size))
FAULTY(int, ftruncate64, (int file, off64_t size), (file, size))
FAULTY(int, fsync, (int file), (file))
FAULTY(int, fdatasync, (int file), (file))
