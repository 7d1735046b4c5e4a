#include "process.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fail.h"

/// The run-queue wait (second field of `schedstat`, nanoseconds) of the thread with the most time on a core (first).
static int64_t wait_of_busiest_thread(pid_t process) {
    char path[300];
    snprintf(path, sizeof path, "/proc/%d/task", (int)process);
    DIR *tasks = opendir(path);
    if (tasks == NULL) return 0;
    int64_t most = -1, wait = 0;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)process, entry->d_name);
        FILE *file = fopen(path, "r");
        long long onCore, waited;
        if (file == NULL) continue;
        if (fscanf(file, "%lld %lld", &onCore, &waited) == 2 && onCore > most) {
            most = onCore;
            wait = waited;
        }
        fclose(file);
    }
    closedir(tasks);
    return wait;
}

/// Reads `utime` and `stime`, fields 14 and 15 of `stat`; the name in field 2 may hold spaces and brackets.
static void read_split(pid_t process, struct usage *usage) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
    FILE *file = fopen(path, "r");
    if (file == NULL) return;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    unsigned long long user, system;
    const char *afterName = strrchr(text, ')');
    if (afterName == NULL
        || sscanf(afterName + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2) {
        return;
    }
    int64_t tick = 1000000000 / sysconf(_SC_CLK_TCK);
    usage->user = (int64_t)user * tick;
    usage->system = (int64_t)system * tick;
}

static void read_memory(pid_t process, struct usage *usage) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)process);
    FILE *file = fopen(path, "r");
    if (file == NULL) return;
    while (fgets(line, sizeof line, file) != NULL) {
        long long value;
        if (sscanf(line, "VmRSS: %lld", &value) == 1) usage->residentKiB = value;
        if (sscanf(line, "VmHWM: %lld", &value) == 1) usage->peakResidentKiB = value;
    }
    fclose(file);
}

struct usage usage_of(pid_t process) {
    struct usage usage = {0};
    clockid_t clock;
    struct timespec time;
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &time) != 0) {
        fail(EXIT_LOST, "process %d (--pid) is gone or may not be looked at", (int)process);
    }
    usage.cpu = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
    read_split(process, &usage);
    read_memory(process, &usage);
    usage.waited = wait_of_busiest_thread(process);
    return usage;
}

struct usage usage_of_all(const pid_t *processes, int count) {
    struct usage all = {0};
    for (int i = 0; i < count; i++) {
        struct usage one = usage_of(processes[i]);
        all.cpu += one.cpu;
        all.user += one.user;
        all.system += one.system;
        all.residentKiB += one.residentKiB;
        all.peakResidentKiB += one.peakResidentKiB;
        if (one.waited > all.waited) all.waited = one.waited;
    }
    return all;
}
