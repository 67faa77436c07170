// lockstep eval and lockstep predict: a trained model over a data set, or on image files.
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "worker/inference.h"

struct options {
  const char *data;
  uint64_t batch, devices;
  bool ten_crop;
  const char *kind, *precision;  // NULL: auto, the job's
  enum ls_output_format format;
};

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

// The checkpoint of the last step in FOLDER/checkpoints; the caller frees it. NULL when there is none.
static char *newest_checkpoint(const char *folder) {
  char *path = ls_path_join(folder, "checkpoints"), *newest = NULL;
  uint64_t *steps = NULL;
  int count = 0;
  if (path && ls_checkpoint_list(path, &steps, &count, NULL) == LS_OK && count > 0)
    newest = ls_checkpoint_path(path, steps[0]);
  free(steps);
  free(path);
  return newest;
}

// What MODEL means: a file; a job's folder (its final.h5, else its newest checkpoint); else a job of the daemon.
static int find_model(struct ls_cli *cli, const char *text, char **model) {
  struct stat info;
  char *folder = NULL;
  if (stat(text, &info) == 0) {
    if (!S_ISDIR(info.st_mode)) {
      *model = strdup(text);
      return *model ? LS_CLI_OK : ls_cli_complain(LS_CLI_FAILED, "memory ran out");
    }
    folder = strdup(text);
  } else if (strchr(text, '/') || ends_with(text, ".h5")) {
    return ls_cli_complain(LS_CLI_NOT_FOUND, "the model file '%s' does not exist", text);
  } else {
    Lockstep__V1__JobInfo *job = NULL;
    int code = ls_remote_find(cli, text, false, &job);
    if (code != LS_CLI_OK) return code;
    folder = strdup(job->folder);
    protobuf_c_message_free_unpacked(&job->base, NULL);
  }
  *model = folder ? ls_path_join(folder, "final.h5") : NULL;
  if (*model && stat(*model, &info) != 0) {
    free(*model);
    *model = newest_checkpoint(folder);
  }
  int code = *model ? LS_CLI_OK : ls_cli_complain(LS_CLI_NOT_FOUND, "'%s' has no checkpoint yet", text);
  free(folder);
  return code;
}

// False after complaining.
static bool read_devices(const struct options *options, int *kind, int *precision) {
  *kind = ls_cli_device_kind(options->kind);
  *precision = options->precision && *kind ? ls_cli_precision(options->precision) : 0;
  return *kind && (*precision || !options->precision);
}

#define OPTION_PRECISION                                                            \
  {                                                                                 \
    0, "precision", "NAME", LS_OPTION_TEXT, offsetof(struct options, precision), 0, \
        "float32, tf32, bfloat16 or float16 (the job's on GPUs; the CPU: float32)"  \
  }

// ---- eval

static int run_eval(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  char *model = NULL;
  int kind, precision;
  if (!read_devices(options, &kind, &precision)) return LS_CLI_USAGE;
  int code = find_model(cli, arguments[0], &model);
  if (code != LS_CLI_OK) return code;
  struct ls_evaluate_options evaluate = {
      .kind = (Lockstep__V1__DeviceKind)kind,
      .precision = (Lockstep__V1__Precision)precision,
      .model = model,
      .data = options->data,
      .batch = (unsigned)options->batch,
      .devices = (unsigned)options->devices,
      .ten_crop = options->ten_crop,
  };
  struct ls_evaluate_result result;
  if (ls_evaluate(&evaluate, &result, &err) != LS_OK) {
    free(model);
    return ls_cli_fail(&err);
  }
  char images[32], rate[32];
  if (options->format == LS_OUTPUT_JSON) {
    struct ls_string text = LS_STRING_INIT;
    ls_json_string(&text, model);
    printf(
        "{\"model\": %s, \"step\": %llu, \"images\": %llu, \"loss\": %.9g, \"accuracy\": %.9g, \"top5\": %.9g, "
        "\"images_per_s\": %.6g}\n",
        ls_string_text(&text), (unsigned long long)result.step, (unsigned long long)result.images, result.loss,
        result.accuracy, result.top5, result.images_per_s);
    ls_string_release(&text);
  } else {
    printf("model: %s (step %llu)\n", model, (unsigned long long)result.step);
    printf("images: %s, %s a second\n", ls_format_count(images, result.images),
           ls_format_rate(rate, result.images_per_s));
    printf("loss: %.4f\ntop-5 accuracy: %.2f %%\n", result.loss, result.top5 * 100);
    printf("test accuracy: %.2f %%\n", result.accuracy * 100);
  }
  free(model);
  return LS_CLI_OK;
}

static const struct ls_option eval_rows[] = {
    {0, "data", "FILE.h5:/GROUP", LS_OPTION_TEXT, offsetof(struct options, data), 0,
     "evaluate on these images (the validation data of the job)"},
    {'b', "batch", "N", LS_OPTION_NUMBER, offsetof(struct options, batch), 1, "images computed at once"},
    {'d', "devices", "N", LS_OPTION_NUMBER, offsetof(struct options, devices), 1, "number of devices (all)"},
    LS_OPTION_KIND(struct options),
    OPTION_PRECISION,
    {0, "ten-crop", NULL, LS_OPTION_FLAG, offsetof(struct options, ten_crop), 0,
     "ten views an image, corners and centre and their mirrors; the mean of their probabilities counts"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_eval = {
    .name = "eval",
    .arguments = "MODEL",
    .summary = "Measure the accuracy of a trained model on a data set",
    .details = "MODEL is a checkpoint file (final.h5), a job's folder, or a job of the daemon.",
    .options = eval_rows,
    .option_count = LS_COUNT(eval_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_eval,
};

// ---- predict

static void print_json(char **files, const struct ls_prediction *predictions, size_t count) {
  puts("[");
  for (size_t i = 0; i < count; i++) {
    struct ls_string text = LS_STRING_INIT;
    ls_string_add(&text, "  {\"file\": ");
    ls_json_string(&text, files[i]);
    ls_string_add(&text, ", \"classes\": [");
    for (int k = 0; k < predictions[i].count; k++) {
      ls_string_addf(&text, "%s{\"class\": %lld, \"name\": ", k ? ", " : "", (long long)predictions[i].top[k].class);
      ls_json_string(&text, predictions[i].top[k].name);
      ls_string_addf(&text, ", \"probability\": %.9g}", (double)predictions[i].top[k].probability);
    }
    printf("%s]}%s\n", ls_string_text(&text), i + 1 < count ? "," : "");
    ls_string_release(&text);
  }
  puts("]");
}

static void print_table(char **files, const struct ls_prediction *predictions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    printf("%s%s\n", i ? "\n" : "", files[i]);
    for (int k = 0; k < predictions[i].count; k++) {
      printf("  %6.2f %%  %s\n", (double)predictions[i].top[k].probability * 100, predictions[i].top[k].name);
    }
  }
}

static int run_predict(struct ls_cli *cli, int count, char **arguments) {
  const struct options *options = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  size_t image_count = (size_t)count - 1, read = 0;
  char *model = NULL;
  int kind, precision;
  if (!read_devices(options, &kind, &precision)) return LS_CLI_USAGE;
  int code = find_model(cli, arguments[0], &model);
  if (code != LS_CLI_OK) return code;
  struct ls_predict_options predict = {
      .model = model, .kind = (Lockstep__V1__DeviceKind)kind, .precision = (Lockstep__V1__Precision)precision};
  struct ls_predict_image *images = calloc(image_count, sizeof *images);
  struct ls_prediction *predictions = calloc(image_count, sizeof *predictions);
  ls_status status = images && predictions ? LS_OK : ls_fail(&err, LS_NO_MEMORY, "memory ran out");
  for (; status == LS_OK && read < image_count; read++) {
    status = ls_image_read(arguments[1 + read], &images[read], &err);
  }
  if (status == LS_OK) status = ls_predict(&predict, images, image_count, predictions, &err);
  if (status != LS_OK) {
    code = ls_cli_fail(&err);
  } else if (options->format == LS_OUTPUT_JSON) {
    print_json(arguments + 1, predictions, image_count);
  } else {
    print_table(arguments + 1, predictions, image_count);
  }
  for (size_t i = 0; images && i < read; i++) free((void *)images[i].pixels);
  free(images);
  free(predictions);
  free(model);
  return code;
}

static const struct ls_option predict_rows[] = {LS_OPTION_KIND(struct options), OPTION_PRECISION,
                                                LS_OPTION_OUTPUT(struct options)};

const struct ls_command ls_cmd_predict = {
    .name = "predict",
    .arguments = "MODEL IMAGE...",
    .summary = "Name what PNG or JPEG images show: the five most likely classes of each",
    .details = "MODEL is a checkpoint file (final.h5), a job's folder, or a job of the daemon.",
    .options = predict_rows,
    .option_count = LS_COUNT(predict_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 2,
    .max_arguments = -1,
    .run = run_predict,
};
