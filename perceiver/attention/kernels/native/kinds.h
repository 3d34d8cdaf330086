#ifndef PERCEIVER_KINDS_H
#define PERCEIVER_KINDS_H

/* The axes along which a part of the tokens varies: n = 1, outer, inner or outer * inner positions. Kind in task.py. */
enum kind { CONSTANT, OUTER, INNER, FULL };

#endif
