// The network's input: what the loader delivers to a device, cut and normalised by the device's kernel (compiled for the
// host), against what it delivers to the CPU: the same bits, for all that may be done to images, in training and evaluation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/cuda_internal.h"
#include "data/data_internal.h"
#include "data/reader.h"
#include "support/data_files.h"

enum { SAMPLES = 45, HEIGHT = 14, WIDTH = 18, BATCH = 16, BATCHES = 7 };

static struct ls_backend backend;

// Data sets of 3 channels and of 1, and the first one in chunks.
static int set_up(void **state) {
  if (test_folder_make(state) != 0) return -1;
  for (int i = 0; i < 3; i++) {
    static const char *const names[] = {"rgb.h5", "grey.h5", "chunks.h5"};
    hid_t file = test_h5(names[i]), plist = H5Pcreate(H5P_DATASET_CREATE);
    if (i == 2) H5Pset_chunk(plist, 4, (hsize_t[]){4, HEIGHT, WIDTH, 3});
    test_h5_images(file, SAMPLES, HEIGHT, WIDTH, i == 1 ? 1 : 3, 10, plist);
    H5Pclose(plist);
    H5Fclose(file);
  }
  return ls_backend_cuda_twin()->open(0, &backend, NULL) == LS_OK ? 0 : -1;
}

static int tear_down(void **state) {
  backend.ops->close(&backend);
  return test_folder_remove(state);
}

struct how {
  const char *file;  // NULL: rgb.h5
  int64_t height, width;
  bool random, flip, resized, scaled, evaluation, ten_crop, direct;
  bool brightness, saturation, contrast, lighting, cutout;
  unsigned pad;
  bool cut_here;  // the rule says that readers cut
};

// The job's list of augmentations.
struct items {
  Lockstep__V1__RandomCrop crop;
  Lockstep__V1__RandomResizedCrop resized;
  Lockstep__V1__HorizontalFlip flip;
  Lockstep__V1__ScaleJitter scale;
  Lockstep__V1__ColorJitter jitter;
  Lockstep__V1__PcaLighting lighting;
  Lockstep__V1__Cutout cutout;
  Lockstep__V1__Augmentation item[8];
  const Lockstep__V1__Augmentation *list[8];
  size_t count;
};

static Lockstep__V1__Augmentation *add(struct items *items, Lockstep__V1__Augmentation__KindCase kind) {
  Lockstep__V1__Augmentation *item = &items->item[items->count];
  lockstep__v1__augmentation__init(item);
  item->kind_case = kind;
  items->list[items->count++] = item;
  return item;
}

static void make_items(const struct how *how, struct items *items) {
  *items = (struct items){.crop = LOCKSTEP__V1__RANDOM_CROP__INIT,
                          .resized = LOCKSTEP__V1__RANDOM_RESIZED_CROP__INIT,
                          .flip = LOCKSTEP__V1__HORIZONTAL_FLIP__INIT,
                          .scale = LOCKSTEP__V1__SCALE_JITTER__INIT,
                          .jitter = LOCKSTEP__V1__COLOR_JITTER__INIT,
                          .lighting = LOCKSTEP__V1__PCA_LIGHTING__INIT,
                          .cutout = LOCKSTEP__V1__CUTOUT__INIT};
  items->crop.pad = how->pad;
  items->scale.min_side = 13, items->scale.max_side = 20;
  items->jitter.brightness = how->brightness ? 0.6F : 0;
  items->jitter.contrast = how->contrast ? 0.4F : 0;
  items->jitter.saturation = how->saturation ? 0.7F : 0;
  items->lighting.sigma = 0.5F;
  items->cutout.size = 5;
  if (how->random) add(items, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP)->random_crop = &items->crop;
  if (how->resized)
    add(items, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP)->random_resized_crop = &items->resized;
  if (how->scaled) add(items, LOCKSTEP__V1__AUGMENTATION__KIND_SCALE_JITTER)->scale_jitter = &items->scale;
  if (how->flip) add(items, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP)->horizontal_flip = &items->flip;
  if (how->lighting) add(items, LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING)->pca_lighting = &items->lighting;
  if (how->brightness || how->saturation || how->contrast)
    add(items, LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER)->color_jitter = &items->jitter;
  if (how->cutout) add(items, LOCKSTEP__V1__AUGMENTATION__KIND_CUTOUT)->cutout = &items->cutout;
}

static struct ls_loader *start(const struct ls_loader_options *options) {
  struct ls_loader *loader;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_loader_new(options, &loader, &err) != LS_OK) fail_msg("%s", err.text);
  return loader;
}

// What a device makes of a batch.
static void make_input(const struct ls_loader_options *options, const struct ls_batch *batch, int64_t channels,
                       enum ls_dtype dtype, void *out) {
  struct ls_input in = {.pixels = batch->images,
                        .places = batch->places,
                        .place_words = batch->place_words,
                        .out = out,
                        .dtype = dtype,
                        .images = (int32_t)batch->valid,
                        .height = (int32_t)batch->height,
                        .width = (int32_t)batch->width,
                        .h = (int32_t)options->crop_height,
                        .w = (int32_t)options->crop_width,
                        .c = (int32_t)channels,
                        .out_c = (int32_t)channels};
  ls_loader_normalisation(options, channels, in.scale, in.bias);
  assert_int_equal(backend.ops->device->input(&backend, NULL, &in, NULL), LS_OK);
}

static void check(const struct how *how) {
  static const float mean[] = {120.5F, 115, 103}, deviation[] = {58.25F, 57, 57.5F};
  struct ls_dataset *dataset;
  struct ls_error err = LS_ERROR_INIT;
  struct items items;
  make_items(how, &items);
  if (ls_dataset_open(test_path(how->file ? how->file : "rgb.h5"), NULL, NULL, &dataset, &err) != LS_OK)
    fail_msg("%s", err.text);
  struct ls_loader_options options = {.dataset = dataset,
                                      .training = !how->evaluation,
                                      .batch = BATCH,
                                      .crop_height = how->height,
                                      .crop_width = how->width,
                                      .augment = items.list,
                                      .augment_count = items.count,
                                      .seed = 7,
                                      .shuffle = LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL,
                                      .mean = mean,
                                      .deviation = deviation,
                                      .output = LS_F32,
                                      .channels_last = true,
                                      .readers = 2,
                                      .direct = how->direct,
                                      .ten_crop = how->ten_crop};
  struct ls_loader *cut = start(&options);
  options.output = LS_U8;
  options.whole = true;
  struct ls_loader *whole = start(&options);
  int64_t channels = ls_dataset_info(dataset)->channels, image = how->height * how->width * channels;
  float *found = malloc((size_t)(BATCH * image) * sizeof *found);
  const struct ls_batch *expected, *batch;
  // Training goes on for good; an evaluation ends with its last image.
  int64_t images = ls_dataset_info(dataset)->count * (how->ten_crop ? LS_TEN_CROP : 1);
  uint64_t all = (uint64_t)(images + BATCH - 1) / BATCH, batches = !how->evaluation || all > BATCHES ? BATCHES : all;
  for (uint64_t seen = 0; seen < batches; seen++) {
    if (ls_loader_wait(cut, seen, &expected, &err) != LS_OK) fail_msg("%s", err.text);
    if (ls_loader_wait(whole, seen, &batch, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(batch->places == NULL, how->cut_here);
    assert_null(expected->places);
    assert_int_equal(batch->valid, expected->valid);
    assert_memory_equal(batch->labels, expected->labels, BATCH * sizeof *batch->labels);
    make_input(&options, batch, channels, LS_F32, found);
    assert_memory_equal(found, expected->images, (size_t)(batch->valid * image) * sizeof *found);
    ls_loader_done(cut, expected);
    ls_loader_done(whole, batch);
  }
  if (batches < BATCHES) {
    assert_int_equal(ls_loader_wait(cut, batches, &expected, &err), LS_NOT_FOUND);
    assert_int_equal(ls_loader_wait(whole, batches, &batch, &err), LS_NOT_FOUND);
  }
  free(found);
  ls_loader_free(cut);
  ls_loader_free(whole);
  ls_dataset_close(dataset);
}

// Cropped, padded, mirrored in training; the centre and ten crops in evaluation: cut by the device.
static void test_whole(void **state) {
  (void)state;
  static const char *const files[] = {"rgb.h5", "grey.h5"};
  for (int i = 0; i < 2 * 16; i++) {
    struct how how = {.file = files[i / 16], .height = HEIGHT, .width = WIDTH, .flip = i & 1, .random = i & 2};
    if (i & 4) how.height = 11, how.width = 13;
    if (i & 8) how.pad = how.random ? 4 : 0;
    check(&how);
  }
  check(
      &(struct how){.height = 20, .width = 22, .random = true, .flip = true, .pad = 3});  // larger than what is stored
  check(
      &(struct how){.height = 11, .width = 13, .random = true, .flip = true, .pad = 12});  // all of it padding at times
  for (int i = 0; i < 8; i++) {
    struct how how = {.file = files[i / 4], .height = HEIGHT, .width = WIDTH, .evaluation = true, .ten_crop = i & 1};
    how.random = how.flip = true;  // of no meaning there
    if (i & 2) how.height = 11, how.width = 13;
    check(&how);
  }
}

// Colours that change pixel by pixel: by the device too, also those of the padding.
static void test_colours(void **state) {
  (void)state;
  for (int i = 1; i < 16; i++) {
    struct how how = {.height = 11, .width = 13, .random = true, .flip = true, .pad = 3};
    how.brightness = i & 1, how.saturation = i & 2, how.lighting = i & 4, how.cutout = i & 8;
    check(&how);
    how.contrast = how.cut_here = true;  // needs the window's mean
    check(&how);
  }
  check(&(struct how){.file = "grey.h5", .height = 11, .width = 13, .flip = true, .brightness = true, .cutout = true});
}

// Past the page cache, where the file system can.
static void test_direct(void **state) {
  (void)state;
  struct ls_dataset *dataset;
  struct ls_reader *reader;
  assert_int_equal(ls_dataset_open(test_path("rgb.h5"), NULL, NULL, &dataset, NULL), LS_OK);
  bool can = ls_reader_new(dataset, true, 1, &reader, NULL) == LS_OK;
  if (can) ls_reader_free(reader);
  ls_dataset_close(dataset);
  if (!can) skip();
  check(&(struct how){.height = 11, .width = 13, .random = true, .flip = true, .direct = true});
}

// Everything else is cut by the readers.
static void test_cut_here(void **state) {
  (void)state;
  check(&(struct how){.height = 12, .width = 12, .resized = true, .flip = true, .cut_here = true});
  check(&(struct how){.height = 12, .width = 12, .random = true, .scaled = true, .cut_here = true});
  check(&(struct how){.height = 12, .width = 12, .random = true, .contrast = true, .cut_here = true});
  check(&(struct how){.file = "chunks.h5", .height = 12, .width = 12, .random = true, .cut_here = true});
  check(&(struct how){.height = 9, .width = 14, .random = true});                    // half of 14 x 18
  check(&(struct how){.height = 9, .width = 13, .random = true, .cut_here = true});  // less
  check(&(struct how){.height = 9, .width = 13, .evaluation = true, .cut_here = true});
  check(&(struct how){.height = 12, .width = 12, .scaled = true, .contrast = true, .evaluation = true});
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_colours),
                                     cmocka_unit_test(test_direct), cmocka_unit_test(test_cut_here)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
