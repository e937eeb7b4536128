/* Counts the MPI calls of a process and the bytes that it passes to them, HDF5's calls too.
 *
 * Preloaded, it stands between the callers and MPI's profiling interface. Bytes are those of the
 * rank's own buffers (what is sent, and of a gathering call what is received), whatever MPI makes
 * of them. `count_stage` says under which number the calls are counted from now on. */
#include <mpi.h>

enum { STAGES = 32, CALLS = 24 };

typedef struct {
    long long calls, bytes;
} Count;

static Count counts[STAGES][CALLS];
static int stage;

void count_stage(int number);
const Count *count_results(void);

void count_stage(int number) { stage = number; }
const Count *count_results(void) { return &counts[0][0]; }

static void count(int call, long long n, MPI_Datatype type)
{
    int size = 0;
    if (n) PMPI_Type_size(type, &size);
    counts[stage][call].calls++;
    counts[stage][call].bytes += n * size;
}

static long long sum(const int *numbers, MPI_Comm comm)
{
    int size;
    long long total = 0;
    PMPI_Comm_size(comm, &size);
    for (int i = 0; i < size; i++) total += numbers[i];
    return total;
}

static int size_of(MPI_Comm comm)
{
    int size;
    PMPI_Comm_size(comm, &size);
    return size;
}

static int is_root(int root, MPI_Comm comm)
{
    int rank;
    PMPI_Comm_rank(comm, &rank);
    return rank == root;
}

int MPI_Barrier(MPI_Comm comm)
{
    count(0, 0, MPI_BYTE);
    return PMPI_Barrier(comm);
}

int MPI_Ibarrier(MPI_Comm comm, MPI_Request *request)
{
    count(0, 0, MPI_BYTE);
    return PMPI_Ibarrier(comm, request);
}

int MPI_Bcast(void *buffer, int n, MPI_Datatype type, int root, MPI_Comm comm)
{
    count(1, n, type);
    return PMPI_Bcast(buffer, n, type, root, comm);
}

int MPI_Allreduce(const void *a, void *b, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    count(2, n, type);
    return PMPI_Allreduce(a, b, n, type, op, comm);
}

int MPI_Reduce(const void *a, void *b, int n, MPI_Datatype type, MPI_Op op, int root, MPI_Comm comm)
{
    count(3, n, type);
    return PMPI_Reduce(a, b, n, type, op, root, comm);
}

int MPI_Allgather(const void *a, int n, MPI_Datatype type, void *b, int m, MPI_Datatype to,
                  MPI_Comm comm)
{
    count(4, (long long)m * size_of(comm), to);
    return PMPI_Allgather(a, n, type, b, m, to, comm);
}

int MPI_Allgatherv(const void *a, int n, MPI_Datatype type, void *b, const int *m, const int *at,
                   MPI_Datatype to, MPI_Comm comm)
{
    count(5, sum(m, comm), to);
    return PMPI_Allgatherv(a, n, type, b, m, at, to, comm);
}

int MPI_Gather(const void *a, int n, MPI_Datatype type, void *b, int m, MPI_Datatype to, int root,
               MPI_Comm comm)
{
    if (is_root(root, comm)) count(6, (long long)m * size_of(comm), to);
    else count(6, n, type);
    return PMPI_Gather(a, n, type, b, m, to, root, comm);
}

int MPI_Gatherv(const void *a, int n, MPI_Datatype type, void *b, const int *m, const int *at,
                MPI_Datatype to, int root, MPI_Comm comm)
{
    if (is_root(root, comm)) count(6, sum(m, comm), to);
    else count(6, n, type);
    return PMPI_Gatherv(a, n, type, b, m, at, to, root, comm);
}

int MPI_Send(const void *a, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    count(7, n, type);
    return PMPI_Send(a, n, type, to, tag, comm);
}

int MPI_Isend(const void *a, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    count(7, n, type);
    return PMPI_Isend(a, n, type, to, tag, comm, request);
}

int MPI_File_open(MPI_Comm comm, const char *name, int mode, MPI_Info info, MPI_File *file)
{
    count(8, 0, MPI_BYTE);
    return PMPI_File_open(comm, name, mode, info, file);
}

int MPI_File_close(MPI_File *file)
{
    count(8, 0, MPI_BYTE);
    return PMPI_File_close(file);
}

int MPI_File_set_size(MPI_File file, MPI_Offset size)
{
    count(8, 0, MPI_BYTE);
    return PMPI_File_set_size(file, size);
}

int MPI_File_set_view(MPI_File file, MPI_Offset at, MPI_Datatype type, MPI_Datatype in_file,
                      const char *how, MPI_Info info)
{
    count(9, 0, MPI_BYTE);
    return PMPI_File_set_view(file, at, type, in_file, how, info);
}

int MPI_File_write_at_all(MPI_File file, MPI_Offset at, const void *a, int n, MPI_Datatype type,
                          MPI_Status *status)
{
    count(10, n, type);
    return PMPI_File_write_at_all(file, at, a, n, type, status);
}

int MPI_File_write_at(MPI_File file, MPI_Offset at, const void *a, int n, MPI_Datatype type,
                      MPI_Status *status)
{
    count(11, n, type);
    return PMPI_File_write_at(file, at, a, n, type, status);
}

int MPI_File_read_at(MPI_File file, MPI_Offset at, void *a, int n, MPI_Datatype type,
                     MPI_Status *status)
{
    count(12, n, type);
    return PMPI_File_read_at(file, at, a, n, type, status);
}
