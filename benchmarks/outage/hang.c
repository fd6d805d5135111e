/* A file system that hangs: preloaded, it holds writes and syncs under $HANG_UNDER while $HANG_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void hang(int file)
{
    const char *under = getenv("HANG_UNDER"), *trigger = getenv("HANG_WHILE");
    char link[64], path[PATH_MAX];
    if (!under || !trigger)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || strncmp(path, under, strlen(under)) != 0)
        return;
    while (access(trigger, F_OK) == 0)
        usleep(20000);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { hang(file); return NEXT(pwrite)(file, bytes, count, at); }
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) { hang(file); return NEXT(pwrite64)(file, bytes, count, at); }
ssize_t write(int file, const void *bytes, size_t count) { hang(file); return NEXT(write)(file, bytes, count); }
int fsync(int file) { hang(file); return NEXT(fsync)(file); }
int fdatasync(int file) { hang(file); return NEXT(fdatasync)(file); }
int ftruncate64(int file, off64_t length) { hang(file); return NEXT(ftruncate64)(file, length); }
