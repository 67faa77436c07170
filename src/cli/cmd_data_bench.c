// lockstep data bench: how fast a data set is read, by the loader that a job uses.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "spec/spec.h"

struct options {
  uint64_t crop, readers, batch, depth, seed;
  double seconds;
  const char *job;
  bool flip, float32, direct, in_order, blocks;
  enum ls_output_format format;
};

struct measured {
  double seconds, cpu_s;
  uint64_t images;
  struct ls_loader_stats stats;
};

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// Takes batches and gives them back at once until the time is over. What the ring held at the beginning does not count.
static ls_status measure(struct ls_loader *loader, int64_t batch_size, double seconds, struct measured *m,
                         struct ls_error *err) {
  enum { WARM_UP = 8 };
  const struct ls_batch *batch;
  struct ls_loader_stats before = {0};
  int64_t start = 0;
  double cpu = 0;
  for (uint64_t k = 0;; k++) {
    LS_TRY(ls_loader_wait(loader, k, &batch, err));
    ls_loader_done(loader, batch);
    if (k + 1 == WARM_UP) {
      start = ls_clock_ns();
      cpu = cpu_seconds();
      ls_loader_stats(loader, &before);
    }
    if (k + 1 <= WARM_UP) continue;
    m->images += (uint64_t)batch_size;
    m->seconds = (double)(ls_clock_ns() - start) * 1e-9;
    if (m->seconds >= seconds) break;
  }
  m->cpu_s = cpu_seconds() - cpu;
  ls_loader_stats(loader, &m->stats);
  m->stats.reader_busy_s -= before.reader_busy_s;
  m->stats.reader_wait_s -= before.reader_wait_s;
  m->stats.read_s -= before.read_s;
  m->stats.decode_s -= before.decode_s;
  m->stats.augment_s -= before.augment_s;
  m->stats.bytes_read -= before.bytes_read;
  return LS_OK;
}

// `job`: its crop, augmentation and seed; NULL: those of the options.
static ls_status run_loader(const struct options *o, const Lockstep__V1__Job *job, struct ls_dataset *dataset,
                            struct measured *m, struct ls_error *err) {
  const struct ls_dataset_info *info = ls_dataset_info(dataset);
  Lockstep__V1__RandomCrop crop = LOCKSTEP__V1__RANDOM_CROP__INIT;
  Lockstep__V1__HorizontalFlip flip = LOCKSTEP__V1__HORIZONTAL_FLIP__INIT;
  Lockstep__V1__Augmentation items[2] = {LOCKSTEP__V1__AUGMENTATION__INIT, LOCKSTEP__V1__AUGMENTATION__INIT};
  const Lockstep__V1__Augmentation *list[2] = {&items[0], &items[1]};
  items[0].kind_case = LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP;
  items[0].random_crop = &crop;
  items[1].kind_case = LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP;
  items[1].horizontal_flip = &flip;
  struct ls_loader_options options = {
      .dataset = dataset,
      .training = true,
      .batch = o->batch ? (int64_t)o->batch : 256,
      .crop_height = job       ? job->network->input->height
                     : o->crop ? (int64_t)o->crop
                               : info->smallest_height,
      .crop_width = job       ? job->network->input->width
                    : o->crop ? (int64_t)o->crop
                              : info->smallest_width,
      .augment = job ? (const Lockstep__V1__Augmentation *const *)job->augment : list,
      .augment_count = job       ? job->n_augment
                       : o->flip ? 2
                                 : 1,
      .seed = o->seed ? o->seed : 1,
      .shuffle = o->in_order ? LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE
                 : o->blocks ? LOCKSTEP__V1__SHUFFLE__SHUFFLE_BLOCKS
                             : LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL,
      .output = o->float32 ? LS_F32 : LS_U8,
      .channels_last = !o->float32,  // what a job on a GPU, and one on the CPU, takes
      .readers = (int)o->readers,
      .depth = (int)o->depth,
      .direct = o->direct,
      .consumers = 1,
  };
  struct ls_loader *loader;
  LS_TRY(ls_loader_new(&options, &loader, err));
  ls_status status = measure(loader, options.batch, o->seconds > 0 ? o->seconds : 5, m, err);
  ls_loader_free(loader);
  return status;
}

static void print_json(const struct options *o, const struct measured *m) {
  const struct ls_loader_stats *s = &m->stats;
  printf(
      "{\"images_per_s\": %.1f, \"bytes_per_s\": %.0f, \"cpu_s_per_1000_images\": %.6f, \"images\": %" PRIu64
      ", \"seconds\": %.3f,\n \"reader_busy_s\": %.3f, \"reader_wait_s\": %.3f, \"read_s\": %.3f, \"decode_s\": %.3f, "
      "\"augment_s\": %.3f, \"output\": \"%s\"}\n",
      (double)m->images / m->seconds, (double)s->bytes_read / m->seconds, 1000 * m->cpu_s / (double)m->images,
      m->images, m->seconds, s->reader_busy_s, s->reader_wait_s, s->read_s, s->decode_s, s->augment_s,
      o->float32 ? "float32" : "uint8");
}

static void print_text(const struct measured *m) {
  char text[32];
  const struct ls_loader_stats *s = &m->stats;
  double busy = s->reader_busy_s > 0 ? s->reader_busy_s : 1;
  printf("images_per_s           %s\n", ls_format_rate(text, (double)m->images / m->seconds));
  printf("bytes_per_s            %.0f (%s/s)\n", (double)s->bytes_read / m->seconds,
         ls_format_bytes(text, (double)s->bytes_read / m->seconds));
  printf("cpu_s_per_1000_images  %.4f\n", 1000 * m->cpu_s / (double)m->images);
  printf("readers' time          %.0f %% reading, %.0f %% decoding, %.0f %% cropping and converting\n",
         100 * s->read_s / busy, 100 * s->decode_s / busy, 100 * s->augment_s / busy);
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *o = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  struct measured m = {.images = 0};
  if (ls_dataset_open(arguments[0], NULL, NULL, &dataset, &err) != LS_OK) return ls_cli_fail(&err);
  Lockstep__V1__Job *job = NULL;
  ls_status status = o->job ? ls_spec_load_job(o->job, NULL, 0, &job, &err) : LS_OK;
  if (status == LS_OK) status = run_loader(o, job, dataset, &m, &err);
  if (job) protobuf_c_message_free_unpacked(&job->base, NULL);
  ls_dataset_close(dataset);
  if (status != LS_OK) return ls_cli_fail(&err);
  if (o->format == LS_OUTPUT_JSON)
    print_json(o, &m);
  else
    print_text(&m);
  return LS_CLI_OK;
}

static const struct ls_option rows[] = {
    {0, "crop", "SIDE", LS_OPTION_NUMBER, offsetof(struct options, crop), 1,
     "side of the random crop in pixels (default: the whole image)"},
    {0, "flip", NULL, LS_OPTION_FLAG, offsetof(struct options, flip), 0, "mirror half of the images"},
    {0, "job", "FILE", LS_OPTION_TEXT, offsetof(struct options, job), 0,
     "crop and augment as this job does, instead of --crop and --flip"},
    {0, "float32", NULL, LS_OPTION_FLAG, offsetof(struct options, float32), 0,
     "normalised float32 planes, as for a job on the CPU (default: uint8 pixels, as for a GPU)"},
    {0, "batch", "IMAGES", LS_OPTION_NUMBER, offsetof(struct options, batch), 1, "images a batch (256)"},
    {0, "readers", "N", LS_OPTION_NUMBER, offsetof(struct options, readers), 1, "reader threads (as a job chooses)"},
    {0, "depth", "BATCHES", LS_OPTION_NUMBER, offsetof(struct options, depth), 1, "batches in the ring (3)"},
    {0, "seconds", "S", LS_OPTION_REAL, offsetof(struct options, seconds), 0, "how long to measure (5)"},
    {0, "direct", NULL, LS_OPTION_FLAG, offsetof(struct options, direct), 0, "read past the page cache"},
    {0, "in-order", NULL, LS_OPTION_FLAG, offsetof(struct options, in_order), 0, "read in order instead of shuffled"},
    {0, "blocks", NULL, LS_OPTION_FLAG, offsetof(struct options, blocks), 0, "shuffle blocks instead of single images"},
    {0, "seed", "NUMBER", LS_OPTION_SEED, offsetof(struct options, seed), 0, "of the random draws (1)"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_data_bench = {
    .name = "data bench",
    .arguments = "FILE.h5[:/GROUP]",
    .summary = "Measure how fast a data set is read",
    .details =
        "The same code as in a job reads random images, cuts them and puts them into batches, as fast as it can.",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
