/* NVML as far as the agent asks it, for cards that a text file describes.
 *
 * Lines of NVML_MACHINE are KEY=VALUE, and the last one of a key holds. A figure that isn't there
 * is not supported. The file is read at each call, so a machine changes while it runs. A card
 * that was lost stays so for as long as its handle is used, as with the real one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
       INSUFFICIENT_SIZE = 7, TIMEOUT = 10, CARDS = 8, SETS = 64 };

typedef struct { int index, generation, lost; } device;
typedef struct { device *of; int told; } events;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;
typedef struct { device *of; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event;

static device devices[CARDS];
static events sets[SETS];
static int generation, open_count, set_count;

static int find(const char *key, char *value, size_t size) {
    const char *path = getenv("NVML_MACHINE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    size_t length = strlen(key);
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found && value[0];
}

static long long number(const char *key, long long otherwise) {
    char value[512];
    return find(key, value, sizeof value) ? atoll(value) : otherwise;
}

static const char *key_of(const device *of, const char *figure) {
    static char key[64];
    snprintf(key, sizeof key, "%d.%s", of->index, figure);
    return key;
}

static int check(device *of) {
    int code;
    if (!open_count) return UNINITIALIZED;
    if (of < devices || of >= devices + CARDS || of->generation != generation) return INVALID;
    while (number("hangs", 0)) usleep(10000);
    code = (int)number("broken", 0);
    if (code) return code;
    code = (int)number(key_of(of, "lost"), 0);
    if (code) of->lost = code;
    return of->lost;
}

static int text(device *of, const char *figure, char *value, unsigned size) {
    int code = check(of);
    if (code) return code;
    return find(key_of(of, figure), value, size) ? OK : NOT_SUPPORTED;
}

static int whole(device *of, const char *figure, long long *value) {
    char found[512];
    int code = text(of, figure, found, sizeof found);
    if (code == OK) *value = atoll(found);
    return code;
}

static int small(device *of, const char *figure, unsigned *value) {
    long long found;
    int code = whole(of, figure, &found);
    if (code == OK) *value = (unsigned)found;
    return code;
}

static int large(device *of, const char *figure, unsigned long long *value) {
    long long found;
    int code = whole(of, figure, &found);
    if (code == OK) *value = (unsigned long long)found;
    return code;
}

int nvmlInitWithFlags(unsigned flags) {
    int code = (int)number("init", 0);
    (void)flags;
    while (number("hangs_at_once", 0)) usleep(10000);
    if (code == OK && open_count++ == 0) generation++;
    return code;
}

int nvmlShutdown(void) {
    while (number("hangs", 0) || number("hangs_at_once", 0)) usleep(10000);
    if (!open_count) return UNINITIALIZED;
    open_count--;
    return OK;
}

const char *nvmlErrorString(int code) { return code == OK ? "fine" : "of a kind of its own"; }

int nvmlSystemGetDriverVersion(char *value, unsigned size) {
    return find("driver", value, size) ? OK : NOT_SUPPORTED;
}

int nvmlSystemGetCudaDriverVersion_v2(int *value) {
    *value = (int)number("cuda", 0);
    return *value ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)number("count", 0);
    return open_count ? OK : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **of) {
    device *made = &devices[index];
    if (index >= CARDS) return INVALID;
    if (made->generation != generation) *made = (device){(int)index, generation, 0};
    *of = made;
    return check(made);
}

int nvmlDeviceGetUUID(device *of, char *value, unsigned size) { return text(of, "uuid", value, size); }
int nvmlDeviceGetName(device *of, char *value, unsigned size) { return text(of, "name", value, size); }

int nvmlDeviceGetCudaComputeCapability(device *of, int *major, int *minor) {
    char value[512];
    int code = text(of, "capability", value, sizeof value);
    if (code == OK && sscanf(value, "%d.%d", major, minor) != 2) code = INVALID;
    return code;
}

int nvmlDeviceGetMigMode(device *of, unsigned *now, unsigned *later) {
    int code = small(of, "mig", now);
    if (code == OK) *later = *now;
    return code;
}

int nvmlDeviceGetMemoryInfo(device *of, memory *value) {
    int code = large(of, "memory", &value->total);
    if (code == OK) code = large(of, "used", &value->used);
    if (code == OK) value->free = value->total - value->used;
    return code;
}

int nvmlDeviceGetUtilizationRates(device *of, rates *value) {
    int code = small(of, "sm_percent", &value->gpu);
    return code == OK ? small(of, "memory_percent", &value->memory) : code;
}

int nvmlDeviceGetPowerUsage(device *of, unsigned *value) { return small(of, "power_mw", value); }

int nvmlDeviceGetTotalEnergyConsumption(device *of, unsigned long long *value) {
    return large(of, "energy_mj", value);
}

int nvmlDeviceGetTemperature(device *of, unsigned sensor, unsigned *value) {
    return sensor == 0 ? small(of, "temperature", value) : INVALID;
}

int nvmlDeviceGetClockInfo(device *of, unsigned type, unsigned *value) {
    return small(of, type == 1 ? "sm_mhz" : type == 2 ? "memory_mhz" : "other_mhz", value);
}

int nvmlDeviceGetTotalEccErrors(device *of, unsigned type, unsigned counter, unsigned long long *value) {
    if (counter != 0) return INVALID;
    return large(of, type == 0 ? "corrected" : "uncorrected", value);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *of, unsigned long long *value) {
    return large(of, "throttle", value);
}

int nvmlDeviceGetComputeMode(device *of, unsigned *value) { return small(of, "mode", value); }

int nvmlDeviceSetComputeMode(device *of, unsigned value) {
    FILE *file;
    int code = check(of);
    if (code) return code;
    if (number("root", 0) == 0) return NO_PERMISSION;
    if (!(file = fopen(getenv("NVML_MACHINE"), "a"))) return NO_PERMISSION;
    fprintf(file, "%s=%u\n", key_of(of, "mode"), value);
    fclose(file);
    return OK;
}

/* What drivers before 535 don't have. */
#ifndef OLD_DRIVER

int nvmlDeviceGetCurrentClocksEventReasons(device *of, unsigned long long *value) {
    return large(of, "throttle", value);
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *of, unsigned *count, process *found) {
    char value[512], *entry, *rest = value;
    unsigned room = *count, there = 0;
    int code = text(of, "processes", value, sizeof value);
    if (code) return code;
    for (; (entry = strtok_r(rest, ",", &rest)); there++) {
        unsigned pid;
        long long used;
        if (sscanf(entry, "%u:%lld", &pid, &used) != 2) continue;
        if (found && there < room) found[there] = (process){pid, (unsigned long long)used, 0, 0};
    }
    if (strcmp(value, "none") == 0) there = 0;
    *count = there;
    return there > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlEventSetCreate(events **set) {
    if (set_count == SETS) return NOT_SUPPORTED;
    *set = &sets[set_count++];
    return OK;
}

int nvmlEventSetFree(events *set) {
    set->of = NULL;
    return OK;
}

int nvmlDeviceRegisterEvents(device *of, unsigned long long types, events *set) {
    char value[512];
    int code = text(of, "xids", value, sizeof value);
    if (code) return code;
    if (types != 8) return INVALID;
    *set = (events){of, 0};
    for (char *at = value; *at; at++) set->told += *at == ',';
    return OK;
}

/* "xids" lists all there ever were, from a first 0; each set tells of those since it was made. */
int nvmlEventSetWait_v2(events *set, event *found, unsigned timeout_ms) {
    char value[512], *entry, *rest = value;
    int position = 0;
    if (timeout_ms != 0 || !set->of) return INVALID;
    if (!find(key_of(set->of, "xids"), value, sizeof value)) return TIMEOUT;
    for (; (entry = strtok_r(rest, ",", &rest)); position++)
        if (position > set->told) {
            set->told = position;
            *found = (event){set->of, 8, (unsigned long long)atoll(entry), 0, 0};
            return OK;
        }
    return TIMEOUT;
}

#endif
