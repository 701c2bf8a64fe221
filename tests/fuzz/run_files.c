/*
 * A main for the fuzz targets without libFuzzer: runs each file that is named, and each file in each folder that is named. For findings, which are run in every
 * check, and for AFL++, which gives one file.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t size = 0, room = 4096, got;
    uint8_t *data = malloc(room);
    if (!file || !data) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    while ((got = fread(data + size, 1, room - size, file)) > 0)
        if ((size += got) == room && !(data = realloc(data, room *= 2)))
            exit(1);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static int run_folder(const char *path, DIR *folder) {
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        count += run_file(name);
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv) {
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        count += folder ? run_folder(argv[i], folder) : run_file(argv[i]);
    }
    printf("%s: %d files\n", argv[0], count);
    return 0;
}
