// A trained model at work: inference.h. The network is that of the job in the checkpoint; evaluation runs by the same
// workers as during training, prediction by one worker: on a GPU, or with the threads of all cores.
#include "worker/inference.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "spec/spec.h"
#include "worker/device.h"

struct model {
  Lockstep__V1__Job *job;
  struct trainer *trainer;
  struct ls_snapshot *snapshot;
};

static void close_model(struct model *m) {
  ls_snapshot_free(m->snapshot);
  trainer_free(m->trainer);
  if (m->job) lockstep__v1__job__free_unpacked(m->job, NULL);
}

// Job, then a trainer for `batch` images (0: as in the job) in as many shards as in the job, then the parameters.
// `options`: what the trainer runs on.
static ls_status open_model(const char *path, int64_t batch, unsigned devices, struct trainer_options options,
                            struct model *m, struct ls_error *err) {
  LS_TRY(ls_checkpoint_read_job(path, &m->job, err));
  LS_TRY(ls_spec_complete_job(m->job, err));
  int shards = (int)m->job->shards, workers;
  if (batch == 0) batch = m->job->batch_size;
  while (batch % shards) shards /= 2;
  LS_TRY(trainer_worker_count(devices, true, shards, options.devices, &workers, err));
  options.network = m->job->network;
  options.batch = batch;
  options.shards = shards;
  options.workers = workers;
  options.evaluation = true;
  if (options.devices && !options.precision) options.precision = m->job->precision;
  char *cache = options.devices ? trainer_choice_cache() : NULL;
  options.cache = cache;
  ls_status status = trainer_new(&options, m->job, &m->trainer, err);
  free(cache);
  if (status != LS_OK) return status;
  LS_TRY(ls_snapshot_new(m->trainer->graph, &m->snapshot, err));
  LS_TRY(ls_checkpoint_read(path, m->snapshot, err));
  return model_load(m->trainer, m->snapshot, err);
}

// What a model runs on: `ops` with so many devices where a test names them, else by `kind`. *precision: the job's on GPUs
// unless one was asked for.
static ls_status choose_devices(Lockstep__V1__DeviceKind kind, Lockstep__V1__Precision precision,
                                struct trainer_options *options, struct ls_error *err) {
  if (!options->ops) {
    LS_TRY(trainer_backend(kind ? kind : LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_AUTO, &options->ops, &options->devices,
                           err));
  }
  if (precision) LS_TRY(trainer_check_precision(precision, options->devices, err));
  options->precision = precision;
  return LS_OK;
}

static ls_status evaluate(struct model *m, const struct ls_evaluate_options *o, struct ls_evaluate_result *result,
                          struct ls_error *err) {
  struct trainer_options options = {.ops = o->backend, .devices = (int)o->backend_devices};
  LS_TRY(choose_devices(o->kind, o->precision, &options, err));
  LS_TRY(open_model(o->model, o->batch, o->devices, options, m, err));
  const Lockstep__V1__Data *d = m->job->data;
  const char *location = o->data ? o->data : d->validation;
  if (!location || !*location)
    return ls_fail(err, LS_INVALID, "model '%s' was trained without validation data; name a data set", o->model);
  struct ls_dataset *dataset;
  LS_TRY(ls_dataset_open(location, d->images, d->labels, &dataset, err));
  struct ls_shape in = ls_graph_input_shape(m->trainer->graph);
  ls_status status =
      ls_dataset_check_fits(dataset, in.dim[0], in.dim[1], in.dim[2], ls_graph_classes(m->trainer->graph), err);
  struct ls_loader_options loader = {.batch = 0};
  if (status == LS_OK) status = trainer_loader_options(m->trainer, m->job, NULL, &loader, err);
  loader.ten_crop = o->ten_crop;
  int64_t start = ls_clock_ns();
  if (status == LS_OK) status = trainer_evaluate(m->trainer, dataset, &loader, err);
  ls_dataset_close(dataset);
  if (status != LS_OK) return status;
  const double *sums = m->trainer->evaluation;
  double images = sums[LS_METRIC_IMAGES];
  result->images = (uint64_t)images;
  result->loss = sums[LS_METRIC_LOSS] / images;
  result->accuracy = sums[LS_METRIC_TOP1] / images;
  result->top5 = sums[LS_METRIC_TOP5] / images;
  result->images_per_s = images / ((double)(ls_clock_ns() - start) * 1e-9);
  result->step = m->snapshot->step;
  return LS_OK;
}

ls_status ls_evaluate(const struct ls_evaluate_options *options, struct ls_evaluate_result *result,
                      struct ls_error *err) {
  struct model m = {0};
  memset(result, 0, sizeof *result);
  ls_status status = evaluate(&m, options, result, err);
  close_model(&m);
  return status;
}

// --- prediction ---------------------------------------------------------------------------------------------------------

// Weights of a triangle filter that widens when it shrinks the image, so that no source pixel is left out.
struct taps {
  int64_t first, count;
  float weight[];
};

static struct taps *taps_at(int64_t to, double scale, double offset, int64_t size) {
  double support = fmax(1, scale), centre = offset + ((double)to + 0.5) * scale;
  int64_t first = (int64_t)floor(centre - support), last = (int64_t)ceil(centre + support);
  if (first < 0) first = 0;
  if (last > size) last = size;
  struct taps *t = calloc(1, sizeof *t + (size_t)(last - first) * sizeof t->weight[0]);
  if (!t) return NULL;
  t->first = first;
  t->count = last - first;
  double sum = 0;
  for (int64_t i = first; i < last; i++) sum += fmax(0, 1 - fabs((double)i + 0.5 - centre) / support);
  for (int64_t i = first; i < last; i++)
    t->weight[i - first] = (float)(fmax(0, 1 - fabs((double)i + 0.5 - centre) / support) / sum);
  return t;
}

static float pixel(const struct ls_predict_image *image, int64_t y, int64_t x, int64_t channel, int64_t channels) {
  const uint8_t *p = image->pixels + (y * image->width + x) * image->channels;
  if (image->channels == channels) return p[channel];
  if (image->channels == 1) return p[0];
  return 0.299F * p[0] + 0.587F * p[1] + 0.114F * p[2];  // ITU-R BT.601 luma
}

struct target {
  int64_t channels, height, width;
};

// One value of the output: the image through both filters.
static float sample(const struct ls_predict_image *image, const struct taps *rows, const struct taps *columns,
                    int64_t channel, int64_t channels) {
  float sum = 0;
  for (int64_t i = 0; i < rows->count; i++) {
    float row = 0;
    for (int64_t j = 0; j < columns->count; j++)
      row += columns->weight[j] * pixel(image, rows->first + i, columns->first + j, channel, channels);
    sum += rows->weight[i] * row;
  }
  return sum;
}

// Whole values, as a data set stores them.
static void fill(const struct ls_predict_image *image, const struct target *t, struct taps *const *rows,
                 struct taps *const *columns, uint8_t *out) {
  for (int64_t y = 0; y < t->height; y++) {
    for (int64_t x = 0; x < t->width; x++) {
      for (int64_t c = 0; c < t->channels; c++)
        *out++ = (uint8_t)lrintf(fminf(255, fmaxf(0, sample(image, rows[y], columns[x], c, t->channels))));
    }
  }
}

// The image as a data set of the network's size would hold it: out [height, width, channels].
static ls_status resize(const struct ls_predict_image *image, const struct target *t, uint8_t *out,
                        struct ls_error *err) {
  double scale = fmin((double)image->height / (double)t->height, (double)image->width / (double)t->width);
  double top = ((double)image->height - scale * (double)t->height) / 2;
  double left = ((double)image->width - scale * (double)t->width) / 2;
  struct taps **rows = calloc((size_t)t->height, sizeof *rows), **columns = calloc((size_t)t->width, sizeof *columns);
  bool good = rows && columns;
  for (int64_t i = 0; good && i < t->height; i++) good = (rows[i] = taps_at(i, scale, top, image->height)) != NULL;
  for (int64_t i = 0; good && i < t->width; i++) good = (columns[i] = taps_at(i, scale, left, image->width)) != NULL;
  if (good) fill(image, t, rows, columns, out);
  for (int64_t i = 0; rows && i < t->height; i++) free(rows[i]);
  for (int64_t i = 0; columns && i < t->width; i++) free(columns[i]);
  free(rows);
  free(columns);
  return good ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory to resize an image");
}

static void rank(const float *probabilities, int64_t classes, const struct ls_dataset *names,
                 struct ls_prediction *prediction) {
  prediction->count = classes < LS_PREDICT_TOP ? (int)classes : LS_PREDICT_TOP;
  for (int place = 0; place < prediction->count; place++) {
    int64_t best = -1;
    for (int64_t c = 0; c < classes; c++) {
      bool taken = false;
      for (int i = 0; i < place; i++) taken |= prediction->top[i].class == c;
      if (!taken && (best < 0 || probabilities[c] > probabilities[best])) best = c;
    }
    prediction->top[place].class = best;
    prediction->top[place].probability = probabilities[best];
    if (names)
      snprintf(prediction->top[place].name, sizeof prediction->top[place].name, "%s",
               ls_dataset_class_name(names, best));
    else
      snprintf(prediction->top[place].name, sizeof prediction->top[place].name, "%" PRId64, best);
  }
}

// What the loader hands over: for a device as it is stored, for the CPU [channels, height, width], normalised.
struct prepared {
  uint8_t *pixels;
  float *values, *probabilities;
  struct ls_batch batch;
  int32_t label;
};

static void free_prepared(struct prepared *p) {
  free(p->pixels);
  free(p->values);
  free(p->probabilities);
}

static ls_status make_prepared(struct trainer *t, const struct target *target, struct prepared *p,
                               struct ls_error *err) {
  size_t values = (size_t)(target->channels * target->height * target->width);
  size_t bytes = ls_plan_input_bytes(t->worker[0].evaluation_plan);
  p->pixels = malloc(values);
  p->values = t->devices ? NULL : aligned_alloc(64, (bytes + 63) / 64 * 64);
  p->probabilities = calloc((size_t)ls_graph_classes(t->graph), sizeof *p->probabilities);
  t->evaluation_parts = calloc(LS_METRICS, sizeof *t->evaluation_parts);
  if (!p->pixels || (!p->values && !t->devices) || !p->probabilities || !t->evaluation_parts)
    return ls_fail(err, LS_NO_MEMORY, "no memory for an image");
  p->label = -1;
  p->batch = (struct ls_batch){.images = t->devices ? (void *)p->pixels : p->values,
                               .labels = &p->label,
                               .valid = 1,
                               .height = target->height,
                               .width = target->width};
  t->generated = &p->batch;
  t->evaluation_batches = 1;
  return LS_OK;
}

static void normalise(const struct trainer *t, const struct target *target, struct prepared *p) {
  int64_t plane = target->height * target->width;
  for (int64_t c = 0; c < target->channels; c++) {
    for (int64_t i = 0; i < plane; i++)
      p->values[c * plane + i] =
          (float)p->pixels[i * target->channels + c] * t->normalisation.scale[c] + t->normalisation.bias[c];
  }
}

// In the worker's thread, which the plan belongs to; then the probabilities to the host.
static ls_status run_image(struct trainer *t, const struct target *target, struct prepared *p, struct ls_error *err) {
  struct worker *w = &t->worker[0];
  size_t bytes = (size_t)ls_graph_classes(t->graph) * sizeof *p->probabilities;
  if (!t->devices) normalise(t, target, p);
  LS_TRY(trainer_run(t, COMMAND_EVALUATE, err));
  const struct ls_binding *binding = t->devices ? w->device->evaluation[0] : w->evaluation_binding;
  return t->ops->download(&w->backend, NULL, p->probabilities, ls_binding_probabilities(binding), bytes, err);
}

static ls_status predict(struct model *m, const struct ls_predict_options *o, const struct ls_predict_image *images,
                         size_t count, struct ls_prediction *predictions, struct ls_error *err) {
  struct trainer_options options = {.ops = o->backend, .devices = (int)o->backend_devices, .use_all_cores = true};
  LS_TRY(choose_devices(o->kind, o->precision, &options, err));
  LS_TRY(open_model(o->model, 1, 1, options, m, err));
  const Lockstep__V1__Data *d = m->job->data;
  struct trainer *t = m->trainer;
  struct ls_shape in = ls_graph_input_shape(t->graph);
  struct target target = {in.dim[0], in.dim[1], in.dim[2]};
  struct ls_dataset *names = NULL;
  struct prepared p = {.pixels = NULL};
  // The job carries what was taken from its data set.
  struct ls_loader_options normalised;
  LS_TRY(trainer_loader_options(t, m->job, NULL, &normalised, err));
  ls_loader_normalisation(&normalised, target.channels, t->normalisation.scale, t->normalisation.bias);
  if (d->train && ls_dataset_open(d->train, d->images, d->labels, &names, NULL) != LS_OK) names = NULL;
  ls_status status = make_prepared(t, &target, &p, err);
  if (status == LS_OK) status = trainer_refresh(t, err);
  for (size_t i = 0; i < count && status == LS_OK; i++) {
    status = resize(&images[i], &target, p.pixels, err);
    if (status == LS_OK) status = run_image(t, &target, &p, err);
    if (status == LS_OK) rank(p.probabilities, ls_graph_classes(t->graph), names, &predictions[i]);
  }
  free_prepared(&p);
  if (names) ls_dataset_close(names);
  return status;
}

ls_status ls_predict(const struct ls_predict_options *options, const struct ls_predict_image *images, size_t count,
                     struct ls_prediction *predictions, struct ls_error *err) {
  struct model m = {0};
  ls_status status = predict(&m, options, images, count, predictions, err);
  close_model(&m);
  return status;
}
