// Numbers of an image's random draws (the last word of ls_random for LS_RANDOM_AUGMENT). Never renumbered: a job that
// goes on must draw what it would have drawn.
#ifndef LS_DATA_DRAWS_H
#define LS_DATA_DRAWS_H

enum ls_draw {
  LS_DRAW_CROP = 0,      // v[0] row, v[1] column
  LS_DRAW_FLIP = 1,      // v[0]
  LS_DRAW_SCALE = 2,     // v[0] side
  LS_DRAW_RESIZED = 16,  // + attempt (at most 10): v[0] area, v[1] aspect, v[2] row, v[3] column
  LS_DRAW_COLOUR = 64,   // + place in the list of colour operations
};

#endif
