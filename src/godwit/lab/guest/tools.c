/* One static program for the guest; the name it is called by says which tool it is. */
#include <stdio.h>
#include <string.h>

int ackwriter_main(int argc, char **argv);
int diskwriter_main(int argc, char **argv);
int memwriter_main(int argc, char **argv);
int tick_main(int argc, char **argv);

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];

    if (!strcmp(name, "ackwriter"))
        return ackwriter_main(argc, argv);
    if (!strcmp(name, "diskwriter"))
        return diskwriter_main(argc, argv);
    if (!strcmp(name, "memwriter"))
        return memwriter_main(argc, argv);
    if (!strcmp(name, "tick"))
        return tick_main(argc, argv);
    fprintf(stderr, "%s: called by a name that is none of ackwriter, diskwriter, memwriter, tick\n", name);
    return 2;
}
