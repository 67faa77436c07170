// A trained model at work: evaluation over a data set and prediction for single images.
//
// A model is a checkpoint file (src/checkpoint), final.h5 as well: it carries the network, the job and the parameters.
// Blocking; the caller's thread and worker threads below it. Batch norm uses the running statistics.
#ifndef LS_WORKER_INFERENCE_H
#define LS_WORKER_INFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "lockstep/v1/job.pb-c.h"

struct ls_evaluate_options {
  const char *model;              // checkpoint file
  const char *data;               // "FILE.h5:/group"; NULL: the job's validation data
  unsigned batch;                 // images a run; 0: chosen
  unsigned devices;               // 0: one a core
  Lockstep__V1__DeviceKind kind;  // 0: auto
  // 0: the job's on GPUs, float32 on the CPU, which has no other.
  Lockstep__V1__Precision precision;
  // For tests: this backend with so many devices. NULL: by `kind`.
  const struct ls_backend_ops *backend;
  unsigned backend_devices;
  bool ten_crop;  // mean probabilities of the corners, the centre and their mirrors (the AlexNet paper's way)
};

struct ls_evaluate_result {
  double loss, accuracy, top5;  // means over `images`
  uint64_t images;
  double images_per_s;
  uint64_t step;  // of the checkpoint
};

ls_status ls_evaluate(const struct ls_evaluate_options *options, struct ls_evaluate_result *result,
                      struct ls_error *err);

// One decoded image: pixels [height, width, channels], channels 1 (grey) or 3 (RGB), 0-255. It is converted to the
// network's channels, resized so that its shorter side fits, cropped to the centre, rounded to whole values as a data set
// holds them, and normalised as in training.
struct ls_predict_image {
  const uint8_t *pixels;
  int64_t height, width, channels;
};

enum { LS_PREDICT_TOP = 5 };

struct ls_prediction {
  int count;  // min(LS_PREDICT_TOP, classes)
  struct {
    int64_t class;
    char name[64];  // from the data set the job was trained on; the number when it is gone or has no names
    float probability;
  } top[LS_PREDICT_TOP];  // best first
};

struct ls_predict_options {
  const char *model;                  // checkpoint file
  Lockstep__V1__DeviceKind kind;      // 0: auto
  Lockstep__V1__Precision precision;  // as above
  // For tests: as above.
  const struct ls_backend_ops *backend;
  unsigned backend_devices;
};

// One image after another, on one device: what is said of an image does not depend on the others.
ls_status ls_predict(const struct ls_predict_options *options, const struct ls_predict_image *images, size_t count,
                     struct ls_prediction *predictions, struct ls_error *err);

#endif
