// A contact sheet: images of a data set side by side with their class names, as a PNG file, so that a person sees what a
// network is given. Blocking; any thread.
#ifndef LS_DATA_SHEET_H
#define LS_DATA_SHEET_H

#include "base/error.h"
#include "data/dataset.h"
#include "data/loader.h"

// `count` images, from all over the data set. `options`: as the loader with these options (a training job's) delivers
// them, augmented; NULL: as stored. Of the options crop, augment and seed count.
ls_status ls_data_sheet(struct ls_dataset *dataset, int64_t count, const struct ls_loader_options *options,
                        const char *path, struct ls_error *err);

#endif
