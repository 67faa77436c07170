// lockstep data import and data inspect: making a data set, and showing what one holds.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "data/import.h"
#include "data/inspect.h"
#include "data/sheet.h"
#include "spec/spec.h"

// ---- data import

struct import_options {
  bool replace, grey, encoded, skip_damaged, bgr;
  uint64_t resize, crop, threads, first_label;
  double validation;
  const char *class_names, *images, *labels;
  enum ls_output_format format;
};

struct import_progress {
  struct ls_progress *bar;
  char what[64];  // what is counted now
  int64_t start_ns, drawn_ns;
};

static void on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
  enum { REDRAW_NS = 100 * 1000 * 1000 };
  struct import_progress *p = user;
  int64_t now = ls_clock_ns();
  if (strncmp(p->what, what, sizeof p->what - 1) != 0) {
    snprintf(p->what, sizeof p->what, "%s", what);
    p->start_ns = now;
    p->drawn_ns = 0;
  }
  if (done < total && now - p->drawn_ns < REDRAW_NS) return;
  p->drawn_ns = now;
  ls_progress_count(p->bar, p->what, done, total, (double)(now - p->start_ns) * 1e-9);
}

static void on_skipped(void *user, const char *why) {
  struct import_progress *p = user;
  ls_progress_say(p->bar, "skipped: %s", why);
}

static void print_import_json(const char *path, const struct ls_import_result *result, double seconds) {
  struct ls_string text = LS_STRING_INIT;
  ls_string_add(&text, "{\"file\": ");
  ls_json_string(&text, path);
  ls_string_add(&text, ", \"kind\": ");
  ls_json_string(&text, result->kind);
  ls_string_addf(&text,
                 ", \"unchanged\": %s, \"train\": %" PRIu64 ", \"validation\": %" PRIu64 ", \"test\": %" PRIu64
                 ", \"skipped\": %" PRIu64 ", \"encoded\": %s, \"height\": %" PRId64 ", \"width\": %" PRId64
                 ", \"channels\": %" PRId64 ", \"classes\": %" PRId64 ", \"seconds\": %.3f}",
                 result->unchanged ? "true" : "false", result->train, result->validation, result->test, result->skipped,
                 result->encoded ? "true" : "false", result->height, result->width, result->channels, result->classes,
                 seconds);
  puts(ls_string_text(&text));
  ls_string_release(&text);
}

static void print_import(const char *path, const struct ls_import_result *result, double seconds) {
  char took[64];
  if (result->unchanged)
    printf("%s is there already (--replace makes it anew)\n", path);
  else
    printf("imported %s into %s in %s\n", result->kind, path, (snprintf(took, sizeof took, "%.1f s", seconds), took));
  static const char *const groups[] = {"/train", "/validation", "/test"};
  const uint64_t counts[] = {result->train, result->validation, result->test};
  const char *separator = "";
  for (int i = 0; i < 3; i++) {
    char number[32];
    if (!counts[i]) continue;
    printf("%s%s: %s images", separator, groups[i], ls_format_count(number, counts[i]));
    separator = ", ";
  }
  printf("; %" PRId64 "x%" PRId64 "x%" PRId64 "%s, %" PRId64 " classes\n", result->height, result->width,
         result->channels, result->encoded ? " (the first; kept as JPEG or PNG)" : "", result->classes);
  if (result->skipped) printf("%" PRIu64 " damaged images were left out\n", result->skipped);
}

static int run_import(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct import_options *options = cli->options;
  struct import_progress progress = {.bar = ls_progress_new(stderr, 0)};
  struct ls_import_options import = {.source = arguments[0],
                                     .destination = arguments[1],
                                     .replace = options->replace,
                                     .resize = (int64_t)options->resize,
                                     .crop = (int64_t)options->crop,
                                     .grey = options->grey,
                                     .encoded = options->encoded,
                                     .validation = options->validation,
                                     .skip_damaged = options->skip_damaged,
                                     .bgr = options->bgr,
                                     .first_label = (int64_t)options->first_label,
                                     .class_names = options->class_names,
                                     .images = options->images,
                                     .labels = options->labels,
                                     .threads = (int)options->threads,
                                     .stop = &ls_cli_stop,
                                     .skipped = on_skipped,
                                     .progress = on_progress,
                                     .user = &progress};
  struct ls_import_result result;
  struct ls_error err = LS_ERROR_INIT;
  int64_t start = ls_clock_ns();
  ls_cli_catch_signals();
  ls_status status = ls_import(&import, &result, &err);
  double seconds = (double)(ls_clock_ns() - start) * 1e-9;
  ls_progress_free(progress.bar);
  if (status == LS_CANCELLED) return ls_cli_complain(LS_CLI_SIGNAL, "%s", err.text);
  if (status != LS_OK) return ls_cli_fail(&err);
  if (options->format == LS_OUTPUT_JSON)
    print_import_json(arguments[1], &result, seconds);
  else
    print_import(arguments[1], &result, seconds);
  return LS_CLI_OK;
}

static const struct ls_option import_rows[] = {
    {0, "replace", NULL, LS_OPTION_FLAG, offsetof(struct import_options, replace), 0,
     "a FILE.h5 that is there already is made anew"},
    {0, "resize", "SIDE", LS_OPTION_NUMBER, offsetof(struct import_options, resize), 1,
     "resize images so that the shorter side has SIDE pixels"},
    {0, "crop", "SIDE", LS_OPTION_NUMBER, offsetof(struct import_options, crop), 1,
     "cut a square of SIDE pixels out of the centre"},
    {0, "grey", NULL, LS_OPTION_FLAG, offsetof(struct import_options, grey), 0,
     "one channel instead of three, for JPEG and PNG"},
    {0, "encoded", NULL, LS_OPTION_FLAG, offsetof(struct import_options, encoded), 0,
     "keep JPEG and PNG files as they are, to be decoded in training"},
    {0, "validation", "SHARE", LS_OPTION_REAL, offsetof(struct import_options, validation), 0,
     "random share of the training images, as 0.1, that becomes /validation"},
    {0, "skip-damaged", NULL, LS_OPTION_FLAG, offsetof(struct import_options, skip_damaged), 0,
     "leave out images that cannot be read, and name them (default: the first one ends the import)"},
    {0, "class-names", "FILE", LS_OPTION_TEXT, offsetof(struct import_options, class_names), 0,
     "names of the classes, one a line"},
    {0, "first-label", "N", LS_OPTION_NUMBER, offsetof(struct import_options, first_label), 0,
     "smallest label of SOURCE, which becomes 0 (ImageNet's TFRecords begin at 1)"},
    {0, "bgr", NULL, LS_OPTION_FLAG, offsetof(struct import_options, bgr), 0,
     "raw images of an LMDB have blue first (as from Caffe's convert_imageset)"},
    {0, "images", "NAME", LS_OPTION_TEXT, offsetof(struct import_options, images), 0,
     "dataset of the images, in a SOURCE that is an HDF5 file"},
    {0, "labels", "NAME", LS_OPTION_TEXT, offsetof(struct import_options, labels), 0,
     "dataset of the labels, likewise"},
    {0, "threads", "N", LS_OPTION_NUMBER, offsetof(struct import_options, threads), 1,
     "threads that decode (default: one a core)"},
    LS_OPTION_OUTPUT(struct import_options),
};

const struct ls_command ls_cmd_data_import = {
    .name = "data import",
    .arguments = "SOURCE FILE.h5",
    .summary = "Make a data set of SOURCE, which is recognised by what it holds",
    .list = ls_import_kind,
    .details =
        "FILE.h5 gets the groups /train and, as there are, /validation and /test, with raw images, labels, mean\n"
        "and deviation. Images sorted by class are stored in a random order. FILE.h5 appears under its name only\n"
        "when it is whole; an import that was cut off is simply started again.",
    .options = import_rows,
    .option_count = LS_COUNT(import_rows),
    .options_bytes = sizeof(struct import_options),
    .min_arguments = 2,
    .max_arguments = 2,
    .run = run_import,
};

// ---- data inspect

struct inspect_options {
  uint64_t sample;
  const char *job;
  enum ls_output_format format;
};

static void describe_images(struct ls_string *text, const struct ls_dataset_info *info) {
  char number[32];
  ls_string_addf(text, "%s%s images of ", ls_format_count(number, (uint64_t)info->count),
                 info->encoded ? " encoded" : "");
  if (info->smallest_height != info->height || info->smallest_width != info->width)
    ls_string_addf(text, "%" PRId64 "x%" PRId64 " to ", info->smallest_height, info->smallest_width);
  ls_string_addf(text, "%" PRId64 "x%" PRId64 "x%" PRId64 ", %" PRId64 " classes", info->height, info->width,
                 info->channels, info->classes);
  for (int part = 0; part < 2 && info->has_statistics; part++) {
    const float *values = part ? info->deviation : info->mean;
    ls_string_add(text, part ? "; deviation" : "; mean");
    for (int64_t c = 0; c < info->channels; c++) ls_string_addf(text, " %.2f", (double)values[c]);
  }
}

static const struct ls_column dataset_columns[] = {
    {"  DATASET", "name", false}, {"SHAPE", "shape", false},     {"TYPE", "type", false},
    {"BYTES", "bytes", true},     {"STORAGE", "storage", false},
};

static const struct ls_column class_columns[] = {
    {"  LABEL", "label", true},
    {"IMAGES", "images", true},
    {"SHARE", "share", true},
    {"CLASS", "name", false},
};

static struct ls_table *dataset_table(const struct ls_inspected_group *group, bool indent) {
  struct ls_table *table = ls_table_new(dataset_columns, LS_COUNT(dataset_columns));
  for (size_t i = 0; i < group->dataset_count; i++) {
    const struct ls_inspected_dataset *d = &group->datasets[i];
    char bytes[32], name[256];
    snprintf(name, sizeof name, "%s%s", indent ? "  " : "", d->name);
    ls_table_add(table, name, NULL);
    ls_table_add(table, d->shape, NULL);
    ls_table_add(table, d->type, NULL);
    ls_table_add_number(table, ls_format_bytes(bytes, (double)d->bytes), (double)d->bytes);
    ls_table_add(table, d->storage, NULL);
  }
  return table;
}

static struct ls_table *class_table(const struct ls_inspected_group *group) {
  struct ls_table *table = ls_table_new(class_columns, LS_COUNT(class_columns));
  for (int64_t c = 0; c < group->info.classes && group->histogram; c++) {
    char text[32];
    double share = (double)group->histogram[c] / (double)group->info.count;
    ls_table_add_count(table, (uint64_t)c);
    ls_table_add_count(table, group->histogram[c]);
    ls_table_add_number(table, ls_format_percent(text, share), share);
    ls_table_add(table, group->class_names && group->class_names[c] ? group->class_names[c] : "", NULL);
  }
  return table;
}

static void print_usable(const char *path, const struct ls_inspection *inspection) {
  const char *train = NULL, *validation = NULL;
  for (size_t g = 0; g < inspection->group_count; g++) {
    const struct ls_inspected_group *group = &inspection->groups[g];
    bool other = strstr(group->name, "test") || strstr(group->name, "val");
    if (group->usable && other && !validation) validation = group->name;
    if (group->usable && !other && !train) train = group->name;
  }
  if (!train && !validation) {
    puts("No group can be used by a job as it is.");
    return;
  }
  printf("A job uses it with\n  data: {");
  if (train) printf("train: \"%s:%s\"", path, train);
  if (validation) printf("%svalidation: \"%s:%s\"", train ? ", " : "", path, validation);
  puts("}");
}

static void print_inspection(const char *path, const struct ls_inspection *inspection) {
  char bytes[32];
  printf("%s: %s\n\n", path, ls_format_bytes(bytes, (double)inspection->file_bytes));
  for (size_t g = 0; g < inspection->group_count; g++) {
    const struct ls_inspected_group *group = &inspection->groups[g];
    struct ls_string text = LS_STRING_INIT;
    if (group->usable)
      describe_images(&text, &group->info);
    else
      ls_string_addf(&text, "not usable by a job: %s", group->reason ? group->reason : "unknown");
    printf("%s: %s\n", group->name, ls_string_text(&text));
    ls_string_release(&text);
    ls_table_print(dataset_table(group, true), LS_OUTPUT_TABLE, 0, stdout);
    if (group->usable && group->info.classes > 0 && group->info.classes <= 1000)
      ls_table_print(class_table(group), LS_OUTPUT_TABLE, 0, stdout);
    putchar('\n');
  }
  if (inspection->group_count)
    print_usable(path, inspection);
  else
    puts("It holds no datasets.");
}

static void print_floats(const char *key, const float *values, int64_t count) {
  printf(",\n \"%s\": [", key);
  for (int64_t c = 0; c < count; c++) printf("%s%.9g", c ? ", " : "", (double)values[c]);
  putchar(']');
}

static void print_group_json(const struct ls_inspected_group *group) {
  struct ls_string text = LS_STRING_INIT;
  ls_json_string(&text, group->name);
  printf("{\"name\": %s, \"usable\": %s", ls_string_text(&text), group->usable ? "true" : "false");
  if (group->usable) {
    const struct ls_dataset_info *info = &group->info;
    printf(", \"encoded\": %s, \"images\": %" PRId64 ", \"height\": %" PRId64 ", \"width\": %" PRId64
           ", \"channels\": %" PRId64,
           info->encoded ? "true" : "false", info->count, info->height, info->width, info->channels);
    if (info->has_statistics) {
      print_floats("mean", info->mean, info->channels);
      print_floats("deviation", info->deviation, info->channels);
    }
    printf(",\n \"classes\": ");
    ls_table_print(class_table(group), LS_OUTPUT_JSON, 0, stdout);
  } else {
    ls_string_clear(&text);
    ls_json_string(&text, group->reason ? group->reason : "unknown");
    printf(", \"reason\": %s", ls_string_text(&text));
  }
  printf(",\n \"datasets\": ");
  ls_table_print(dataset_table(group, false), LS_OUTPUT_JSON, 0, stdout);
  putchar('}');
  ls_string_release(&text);
}

static void print_inspection_json(const char *path, const struct ls_inspection *inspection) {
  struct ls_string text = LS_STRING_INIT;
  ls_json_string(&text, path);
  printf("{\"file\": %s, \"bytes\": %" PRIu64 ", \"groups\": [", ls_string_text(&text), inspection->file_bytes);
  ls_string_release(&text);
  for (size_t g = 0; g < inspection->group_count; g++) {
    if (g) puts(",");
    print_group_json(&inspection->groups[g]);
  }
  puts("]}");
}

// The contact sheet: of the group named, else of the first one that can be used.
static int write_sheet(const struct inspect_options *options, const char *path, const struct ls_inspection *inspection,
                       const char *out) {
  struct ls_error err = LS_ERROR_INIT;
  const char *group = NULL;
  for (size_t g = 0; g < inspection->group_count && !group; g++) {
    const struct ls_inspected_group *found = &inspection->groups[g];
    bool train = strcmp(found->name, "/train") == 0;
    if (found->usable && (train || inspection->group_count == 1)) group = found->name;
  }
  for (size_t g = 0; g < inspection->group_count && !group; g++) {
    if (inspection->groups[g].usable) group = inspection->groups[g].name;
  }
  if (!group) return ls_cli_complain(LS_CLI_USAGE, "'%s' has no group whose images can be shown", path);
  char *location = NULL;
  struct ls_dataset *dataset = NULL;
  Lockstep__V1__Job *job = NULL;
  ls_status status = asprintf(&location, "%s:%s", path, group) < 0 ? LS_NO_MEMORY : LS_OK;
  if (status == LS_OK) status = ls_dataset_open(location, NULL, NULL, &dataset, &err);
  if (status == LS_OK && options->job) status = ls_spec_load_job(options->job, NULL, 0, &job, &err);
  struct ls_loader_options loader = {.crop_height = 0};
  if (status == LS_OK && job) {
    loader.crop_height = job->network->input->height;
    loader.crop_width = job->network->input->width;
    loader.augment = (const Lockstep__V1__Augmentation *const *)job->augment;
    loader.augment_count = job->n_augment;
    loader.seed = job->seed;
  }
  if (status == LS_OK) status = ls_data_sheet(dataset, (int64_t)options->sample, job ? &loader : NULL, out, &err);
  if (status == LS_OK) fprintf(stderr, "%s shows images of %s\n", out, location);
  if (job) protobuf_c_message_free_unpacked(&job->base, NULL);
  ls_dataset_close(dataset);
  free(location);
  return status == LS_OK ? LS_CLI_OK : ls_cli_fail(&err);
}

static int run_inspect(struct ls_cli *cli, int count, char **arguments) {
  const struct inspect_options *options = cli->options;
  struct ls_inspection *inspection;
  struct ls_error err = LS_ERROR_INIT;
  if ((count == 2) != (options->sample > 0))
    return ls_cli_complain(LS_CLI_USAGE, "a contact sheet needs both --sample N and the name of a PNG file");
  if (options->job && !options->sample) return ls_cli_complain(LS_CLI_USAGE, "--job goes with --sample");
  // FILE.h5:/group shows that group alone.
  char *group = strstr(arguments[0], ":/");
  if (group) *group++ = 0;
  if (ls_inspect(arguments[0], group, &inspection, &err) != LS_OK) return ls_cli_fail(&err);
  int code = LS_CLI_OK;
  if (options->sample)
    code = write_sheet(options, arguments[0], inspection, arguments[1]);
  else if (options->format == LS_OUTPUT_JSON)
    print_inspection_json(arguments[0], inspection);
  else
    print_inspection(arguments[0], inspection);
  ls_inspection_free(inspection);
  return code;
}

static const struct ls_option inspect_rows[] = {
    {0, "sample", "N", LS_OPTION_NUMBER, offsetof(struct inspect_options, sample), 1,
     "write a contact sheet of N images with their class names into SHEET.png"},
    {0, "job", "FILE", LS_OPTION_TEXT, offsetof(struct inspect_options, job), 0,
     "with --sample: the images as this job's augmentation makes them"},
    LS_OPTION_OUTPUT(struct inspect_options),
};

const struct ls_command ls_cmd_data_inspect = {
    .name = "data inspect",
    .arguments = "FILE.h5[:/GROUP] [SHEET.png]",
    .summary = "Show what a data set holds",
    .details =
        "Prints its groups with shape, type and storage of each dataset, the images of each class, and what a job\n"
        "can use. Any HDF5 file may be inspected. With --sample N SHEET.png it shows the images themselves.",
    .options = inspect_rows,
    .option_count = LS_COUNT(inspect_rows),
    .options_bytes = sizeof(struct inspect_options),
    .min_arguments = 1,
    .max_arguments = 2,
    .run = run_inspect,
};
