// Augmentation: what each operation does to pixels, that draws depend on (seed, epoch, sample) alone and cover their
// range, and that all output forms hold the same image.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "data/data_internal.h"
#include "support/data_files.h"

enum { MAX_AUGMENTATIONS = 4 };

// A job's `augment` list and an image to apply it to.
struct bench {
  struct ls_dataset dataset;
  struct ls_loader_options options;
  Lockstep__V1__Augmentation items[MAX_AUGMENTATIONS];
  const Lockstep__V1__Augmentation *pointers[MAX_AUGMENTATIONS];
  Lockstep__V1__RandomCrop crop;
  Lockstep__V1__CenterCrop center;
  Lockstep__V1__RandomResizedCrop resized;
  Lockstep__V1__HorizontalFlip flip;
  Lockstep__V1__ColorJitter jitter;
  Lockstep__V1__PcaLighting lighting;
  Lockstep__V1__Cutout cutout;
  Lockstep__V1__ScaleJitter scale;
};

// Images [height, width, channels], uint8 [H,W,C] out; nothing in the list.
static void set_up(struct bench *b, int64_t height, int64_t width, int64_t channels, int64_t crop_height,
                   int64_t crop_width) {
  memset(b, 0, sizeof *b);
  b->dataset.info.height = height;
  b->dataset.info.width = width;
  b->dataset.info.channels = channels;
  b->options = (struct ls_loader_options){.dataset = &b->dataset,
                                          .training = true,
                                          .crop_height = crop_height,
                                          .crop_width = crop_width,
                                          .augment = b->pointers,
                                          .seed = 1,
                                          .output = LS_U8,
                                          .channels_last = true};
  lockstep__v1__random_crop__init(&b->crop);
  lockstep__v1__center_crop__init(&b->center);
  lockstep__v1__random_resized_crop__init(&b->resized);
  lockstep__v1__horizontal_flip__init(&b->flip);
  lockstep__v1__color_jitter__init(&b->jitter);
  lockstep__v1__pca_lighting__init(&b->lighting);
  lockstep__v1__cutout__init(&b->cutout);
  lockstep__v1__scale_jitter__init(&b->scale);
}

static void add(struct bench *b, Lockstep__V1__Augmentation__KindCase kind) {
  Lockstep__V1__Augmentation *m = &b->items[b->options.augment_count];
  lockstep__v1__augmentation__init(m);
  m->kind_case = kind;
  switch (kind) {
    case LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP: m->random_crop = &b->crop; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_CENTER_CROP: m->center_crop = &b->center; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP: m->random_resized_crop = &b->resized; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP: m->horizontal_flip = &b->flip; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER: m->color_jitter = &b->jitter; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING: m->pca_lighting = &b->lighting; break;
    case LOCKSTEP__V1__AUGMENTATION__KIND_CUTOUT: m->cutout = &b->cutout; break;
    default: m->scale_jitter = &b->scale; break;
  }
  b->pointers[b->options.augment_count++] = m;
}

static void prepare(struct bench *b, struct ls_augmenter *a) {
  struct ls_error err = LS_ERROR_INIT;
  if (ls_augmenter_init(a, &b->options, b->dataset.info.height, b->dataset.info.width, &err) != LS_OK)
    fail_msg("%s", err.text);
}

static void refuse(struct bench *b, const char *says) {
  struct ls_augmenter a;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_augmenter_init(&a, &b->options, b->dataset.info.height, b->dataset.info.width, &err), LS_INVALID);
  if (!strstr(err.text, says)) fail_msg("no '%s' in: %s", says, err.text);
}

// Only the pixels that the view asks for are handed over, at the end of a block that just holds them: reading one byte
// beyond is found by AddressSanitizer.
static struct ls_view run(const struct bench *b, const struct ls_augmenter *a, const uint8_t *image, uint64_t epoch,
                          int64_t sample, int crop, void *out) {
  const struct ls_dataset_info *info = &b->dataset.info;
  struct ls_view view;
  ls_augmenter_view(a, info->height, info->width, epoch, sample, crop, &view);
  assert_true(view.source.top >= 0 && view.source.left >= 0);
  assert_true(view.source.top + view.source.height <= info->height &&
              view.source.left + view.source.width <= info->width);
  size_t stride = (size_t)(view.source.width * info->channels);
  uint8_t *pixels = malloc(stride * (size_t)view.source.height + 1);
  for (int64_t y = 0; y < view.source.height; y++) {
    memcpy(pixels + (size_t)y * stride,
           image + ((view.source.top + y) * info->width + view.source.left) * info->channels, stride);
  }
  uint8_t *exact = malloc(stride * (size_t)view.source.height);
  if (exact) memcpy(exact, pixels, stride * (size_t)view.source.height);
  free(pixels);
  struct ls_augment_scratch scratch = {NULL, 0};
  struct ls_error err = LS_ERROR_INIT;
  if (ls_augmenter_apply(a, &view, exact, stride, &scratch, out, &err) != LS_OK) fail_msg("%s", err.text);
  ls_augment_scratch_release(&scratch);
  free(exact);
  return view;
}

static uint32_t digest(const uint8_t *data, size_t size) {
  uint32_t h = 0;
  for (size_t i = 0; i < size; i++) h = h * 31 + data[i];
  return h;
}

// The window at (top, left) of test image `sample`, black outside, mirrored.
static void expect_window(const struct bench *b, int64_t sample, int64_t top, int64_t left, bool flip,
                          const uint8_t *out) {
  const struct ls_dataset_info *info = &b->dataset.info;
  for (int64_t y = 0; y < b->options.crop_height; y++) {
    for (int64_t x = 0; x < b->options.crop_width; x++) {
      int64_t sy = top + y, sx = left + (flip ? b->options.crop_width - 1 - x : x);
      bool inside = sy >= 0 && sx >= 0 && sy < info->height && sx < info->width;
      for (int64_t c = 0; c < info->channels; c++) assert_int_equal(*out++, inside ? test_pixel(sample, sy, sx, c) : 0);
    }
  }
}

// ---- windows

// Every size from 1 to 40 and every number of channels, so that the vector loops and their ends are all met.
static void test_crop_and_flip(void **state) {
  (void)state;
  for (int64_t channels = 1; channels <= 4; channels++) {
    for (int64_t side = 1; side <= 40; side++) {
      struct bench b;
      struct ls_augmenter a;
      set_up(&b, side + 2, side + 3, channels, side, side);
      b.crop.pad = 2;
      add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
      add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
      prepare(&b, &a);
      uint8_t *image = test_pixels(1, side + 2, side + 3, channels), *out = malloc((size_t)(side * side * channels));
      for (uint64_t epoch = 0; epoch < 4; epoch++) {
        struct ls_view view = run(&b, &a, image, epoch, 0, -1, out);
        int64_t top = view.y.first - view.y.begin, left = view.x.first - view.x.begin;
        expect_window(&b, 0, top, left, view.flip, out);
      }
      free(image);
      free(out);
    }
  }
}

// Each window and each side come about equally often.
static void test_crop_covers(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 6, 5, 1, 4, 4);
  b.crop.pad = 1;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
  prepare(&b, &a);
  int counts[5][4] = {{0}}, flips = 0;
  for (int64_t sample = 0; sample < 20000; sample++) {
    struct ls_view view;
    ls_augmenter_view(&a, 6, 5, 3, sample, -1, &view);
    counts[view.y.first - view.y.begin + 1][view.x.first - view.x.begin + 1]++;
    flips += view.flip;
  }
  for (int y = 0; y < 5; y++) {
    for (int x = 0; x < 4; x++) assert_in_range(counts[y][x], 850, 1150);  // of 1000
  }
  assert_in_range(flips, 9650, 10350);
}

// The draws of seed 1 are part of what a checkpoint relies on: they never change.
static void test_draws_stay(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 256, 256, 3, 224, 224);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
  prepare(&b, &a);
  uint32_t h = 0;
  for (int64_t sample = 0; sample < 100; sample++) {
    struct ls_view view;
    ls_augmenter_view(&a, 256, 256, 2, sample, -1, &view);
    h = h * 31 + (uint32_t)view.source.top;
    h = h * 31 + (uint32_t)view.source.left;
    h = h * 31 + view.flip;
  }
  assert_int_equal(h, 0x60222a1f);
}

static void test_depends_on(void **state) {
  (void)state;
  struct bench b;
  set_up(&b, 64, 64, 3, 32, 32);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  int same_epoch = 0, same_sample = 0, same_seed = 0;
  for (int64_t i = 0; i < 200; i++) {
    struct ls_augmenter a, other;
    prepare(&b, &a);
    b.options.seed = 2;
    prepare(&b, &other);
    b.options.seed = 1;
    struct ls_view v[5];
    ls_augmenter_view(&a, 64, 64, 7, i, -1, &v[0]);
    ls_augmenter_view(&a, 64, 64, 7, i, -1, &v[1]);
    ls_augmenter_view(&a, 64, 64, 8, i, -1, &v[2]);
    ls_augmenter_view(&a, 64, 64, 7, i + 1000, -1, &v[3]);
    ls_augmenter_view(&other, 64, 64, 7, i, -1, &v[4]);
    assert_memory_equal(&v[0].source, &v[1].source, sizeof v[0].source);
    same_epoch += memcmp(&v[0].source, &v[2].source, sizeof v[0].source) == 0;
    same_sample += memcmp(&v[0].source, &v[3].source, sizeof v[0].source) == 0;
    same_seed += memcmp(&v[0].source, &v[4].source, sizeof v[0].source) == 0;
  }
  assert_in_range(same_epoch + same_sample + same_seed, 0, 6);  // 600 / 33^2 by chance
}

static void test_evaluation(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 9, 8, 3, 4, 4);
  b.options.training = false;  // the list is for training
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER);
  prepare(&b, &a);
  uint8_t *image = test_pixels(1, 9, 8, 3), out[4 * 4 * 3];
  run(&b, &a, image, 0, 0, -1, out);
  expect_window(&b, 0, 2, 2, false, out);
  static const int64_t place[5][2] = {{0, 0}, {0, 4}, {5, 0}, {5, 4}, {2, 2}};
  for (int crop = 0; crop < LS_TEN_CROP; crop++) {
    run(&b, &a, image, 0, 0, crop, out);
    expect_window(&b, 0, place[crop % 5][0], place[crop % 5][1], crop >= 5, out);
  }
  free(image);
}

// ---- output forms

static void test_forms(void **state) {
  (void)state;
  for (int64_t channels = 1; channels <= 4; channels++) {
    for (int64_t side = 1; side <= 37; side += 3) {
      struct bench b;
      set_up(&b, side, side, channels, side, side);
      add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
      float mean[4] = {10, 120.5f, 200, 3}, deviation[4] = {60, 50, 0.5f, 255};
      b.options.mean = mean;
      b.options.deviation = deviation;
      uint8_t *image = test_pixels(1, side, side, channels);
      size_t n = (size_t)(side * side), values = n * (size_t)channels;
      uint8_t *rows = malloc(values), *planes = malloc(values);
      float *float_rows = malloc(values * 4), *float_planes = malloc(values * 4);
      void *const outs[4] = {rows, planes, float_rows, float_planes};
      for (int form = 0; form < 4; form++) {
        struct ls_augmenter a;
        b.options.output = form < 2 ? LS_U8 : LS_F32;
        b.options.channels_last = form % 2 == 0;
        prepare(&b, &a);
        run(&b, &a, image, 1, 0, -1, outs[form]);
      }
      for (size_t i = 0; i < values; i++) {
        size_t c = i % (size_t)channels, at = c * n + i / (size_t)channels;
        float normalised = (float)rows[i] * (1 / deviation[c]) + -mean[c] / deviation[c];
        assert_int_equal(planes[at], rows[i]);
        assert_true(float_rows[i] == normalised);
        assert_true(float_planes[at] == normalised);
      }
      free(image), free(rows), free(planes), free(float_rows), free(float_planes);
    }
  }
}

// ---- resampling, against the Python Imaging Library (digests of its results)

static void test_resampling(void **state) {
  (void)state;
  static const struct {
    int64_t channels, height, width;
    uint32_t digest;
  } cases[] = {{3, 12, 16, 0x607b4323}, {3, 60, 80, 0xe3f9792e}, {1, 12, 16, 0xe0ce0acd}};
  for (int i = 0; i < 3; i++) {
    struct bench b;
    struct ls_augmenter a;
    set_up(&b, 29, 37, cases[i].channels, cases[i].height, cases[i].width);
    b.resized.min_area = b.resized.max_area = 1;
    b.resized.min_aspect = b.resized.max_aspect = 37.0 / 29;
    add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP);
    prepare(&b, &a);
    uint8_t *image = test_pixels(4, 29, 37, cases[i].channels);
    size_t size = (size_t)(cases[i].height * cases[i].width * cases[i].channels);
    uint8_t *out = malloc(size);
    run(&b, &a, image + (ptrdiff_t)3 * 29 * 37 * cases[i].channels, 0, 3, -1, out);
    assert_int_equal(digest(out, size), cases[i].digest);
    free(image);
    free(out);
  }
}

static void test_scale_jitter(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 29, 37, 3, 14, 18);
  b.scale.min_side = b.scale.max_side = 20;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_SCALE_JITTER);
  prepare(&b, &a);
  uint8_t *image = test_pixels(4, 29, 37, 3), out[14 * 18 * 3];
  run(&b, &a, image + (ptrdiff_t)3 * 29 * 37 * 3, 0, 3, -1, out);
  assert_int_equal(digest(out, sizeof out), 0x4334ef7e);
  free(image);
  // Every side of the range is met, each about as often.
  b.scale.min_side = 18, b.scale.max_side = 33;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  prepare(&b, &a);
  int counts[34] = {0};
  for (int64_t sample = 0; sample < 3200; sample++) {
    struct ls_view view;
    ls_augmenter_view(&a, 29, 37, 0, sample, -1, &view);
    int64_t side = lround(29 / view.y.step);
    assert_in_range(side, 18, 33);
    counts[side]++;
    assert_true(view.y.count == 14 && view.x.count == 18);
  }
  for (int side = 18; side <= 33; side++) assert_in_range(counts[side], 130, 270);
}

static void test_resized_crop(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 120, 160, 1, 24, 24);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP);
  prepare(&b, &a);
  double least = 1, most = 0, sum = 0;
  for (int64_t sample = 0; sample < 2000; sample++) {
    struct ls_view view;
    ls_augmenter_view(&a, 120, 160, 0, sample, -1, &view);
    double area = (double)view.y.size * (double)view.x.size / (120.0 * 160);
    double aspect = (double)view.x.size / (double)view.y.size;
    assert_true(aspect > 0.73 && aspect < 1.37);
    least = area < least ? area : least;
    most = area > most ? area : most;
    sum += area;
    assert_true(view.y.offset + view.y.size <= 120 && view.x.offset + view.x.size <= 160);
  }
  assert_true(least > 0.078 && least < 0.1 && most > 0.9);
  assert_true(sum / 2000 > 0.4 && sum / 2000 < 0.54);  // large areas fit less often
  // An aspect that never fits ends with the centre.
  set_up(&b, 10, 1000, 1, 8, 8);
  b.resized.min_area = 0.9;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP);
  prepare(&b, &a);
  struct ls_view view;
  ls_augmenter_view(&a, 10, 1000, 0, 0, -1, &view);
  assert_int_equal(view.y.size, 10);
  assert_int_equal(view.x.size, 13);
  assert_int_equal(view.x.offset, 493);
}

// ---- colours

static void test_jitter(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 8, 8, 3, 8, 8);
  b.jitter.brightness = 0.5;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER);
  prepare(&b, &a);
  uint8_t image[8 * 8 * 3], out[8 * 8 * 3];
  memset(image, 100, sizeof image);
  int least = 255, most = 0;
  for (int64_t sample = 0; sample < 500; sample++) {
    run(&b, &a, image, 0, sample, -1, out);
    for (size_t i = 1; i < sizeof out; i++) assert_int_equal(out[i], out[0]);
    least = out[0] < least ? out[0] : least;
    most = out[0] > most ? out[0] : most;
  }
  assert_in_range(least, 50, 52);
  assert_in_range(most, 148, 150);
  // Contrast leaves an even image alone, saturation a grey one.
  b.jitter.brightness = 0, b.jitter.contrast = 1, b.jitter.saturation = 1;
  prepare(&b, &a);
  run(&b, &a, image, 0, 0, -1, out);
  assert_memory_equal(out, image, sizeof out);
  // Saturation keeps the grey value (to rounding) and changes the colours.
  b.jitter.contrast = 0, b.jitter.saturation = 0.5;
  prepare(&b, &a);
  for (int i = 0; i < 64; i++) image[3 * i] = 120, image[3 * i + 1] = 90, image[3 * i + 2] = 60;
  int changed = 0;
  for (int64_t sample = 0; sample < 50; sample++) {
    run(&b, &a, image, 0, sample, -1, out);
    double before = 0.299 * 120 + 0.587 * 90 + 0.114 * 60, after = 0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2];
    assert_true(after > before - 1.2 && after < before + 1.2);
    changed += out[0] != 120;
  }
  assert_true(changed > 40);
}

// One number is added to each channel; over many samples its deviation is that of the principal components.
static void test_lighting(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 4, 4, 3, 4, 4);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING);
  prepare(&b, &a);
  uint8_t image[48], out[48];
  memset(image, 128, sizeof image);
  double sum = 0, squares = 0;
  int n = 4000;
  for (int64_t sample = 0; sample < n; sample++) {
    run(&b, &a, image, 0, sample, -1, out);
    for (size_t i = 3; i < sizeof out; i++) assert_int_equal(out[i], out[i % 3]);
    sum += out[0] - 128;
    squares += (out[0] - 128) * (out[0] - 128);
  }
  // 0.1 * sqrt((.5675 * 55.46)^2 + (.7192 * 4.794)^2 + (.4009 * 1.148)^2) = 3.17, and rounding
  assert_true(sum / n > -0.25 && sum / n < 0.25);
  assert_true(squares / n > 9 && squares / n < 11.3);
}

static void test_cutout(void **state) {
  (void)state;
  struct bench b;
  struct ls_augmenter a;
  set_up(&b, 16, 16, 3, 16, 16);
  float mean[3] = {11, 22, 33};
  b.options.mean = mean;
  b.cutout.size = 6;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_CUTOUT);
  prepare(&b, &a);
  uint8_t image[16 * 16 * 3], out[16 * 16 * 3];
  memset(image, 200, sizeof image);
  int whole = 0, smallest = 1000;
  for (int64_t sample = 0; sample < 1000; sample++) {
    run(&b, &a, image, 0, sample, -1, out);
    int cut = 0;
    for (int i = 0; i < 256; i++) {
      bool is_cut = out[3 * i] == 11 && out[3 * i + 1] == 22 && out[3 * i + 2] == 33;
      assert_true(is_cut || (out[3 * i] == 200 && out[3 * i + 1] == 200 && out[3 * i + 2] == 200));
      cut += is_cut;
    }
    whole += cut == 36;
    smallest = cut < smallest ? cut : smallest;
  }
  assert_int_equal(smallest, 9);     // the centre in a corner
  assert_in_range(whole, 400, 545);  // (11/16)^2 of 1000
}

// Colours of a job with float output go through the same bytes.
static void test_colours_in_floats(void **state) {
  (void)state;
  struct bench b;
  set_up(&b, 12, 12, 3, 10, 10);
  b.jitter.brightness = b.jitter.contrast = b.jitter.saturation = 0.4;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_CUTOUT);
  uint8_t *image = test_pixels(1, 12, 12, 3), bytes[300];
  float floats[300];
  struct ls_augmenter a;
  prepare(&b, &a);
  run(&b, &a, image, 5, 0, -1, bytes);
  b.options.output = LS_F32;
  b.options.channels_last = false;
  prepare(&b, &a);
  run(&b, &a, image, 5, 0, -1, floats);
  for (int i = 0; i < 300; i++) assert_true(floats[i % 3 * 100 + i / 3] == (float)bytes[i] * (1 / 255.0f) + -0.0f);
  free(image);
}

static void test_refused(void **state) {
  (void)state;
  struct bench b;
  set_up(&b, 8, 8, 1, 9, 8);
  refuse(&b, "a crop of 9x8 does not fit into images of 8x8");
  set_up(&b, 8, 8, 1, 8, 8);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP);
  refuse(&b, "only one of random_crop, center_crop and random_resized_crop");
  set_up(&b, 8, 8, 1, 8, 8);
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING);
  refuse(&b, "pca_lighting needs images of 3 channels, these have 1");
  set_up(&b, 8, 8, 1, 8, 8);
  b.scale.min_side = 7, b.scale.max_side = 12;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_SCALE_JITTER);
  refuse(&b, "does not fit into images of 7x7 (after scale_jitter)");
  b.scale.min_side = 13;
  refuse(&b, "min_side 13 above max_side 12");
  set_up(&b, 8, 8, 3, 8, 8);
  b.resized.min_area = 0.5, b.resized.max_area = 0.4;
  add(&b, LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP);
  refuse(&b, "minimum above its maximum");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_crop_and_flip),     cmocka_unit_test(test_crop_covers),
      cmocka_unit_test(test_draws_stay),        cmocka_unit_test(test_depends_on),
      cmocka_unit_test(test_evaluation),        cmocka_unit_test(test_forms),
      cmocka_unit_test(test_resampling),        cmocka_unit_test(test_scale_jitter),
      cmocka_unit_test(test_resized_crop),      cmocka_unit_test(test_jitter),
      cmocka_unit_test(test_lighting),          cmocka_unit_test(test_cutout),
      cmocka_unit_test(test_colours_in_floats), cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
