/* Counts answers by how long they took: a histogram of the places of proxy/latency.py, which has the
 * reference. For any number of seconds both count the same, which tests/property/test_latency.py proves.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

enum { LAST = 144 }; /* These three as in proxy/latency.py. */
static const double UNITS = 16384.0, MOST = 64.0;

typedef struct {
    PyObject_HEAD
    uint64_t *counts; /* By place; NULL = no answer yet, as most of thousands of instances have none. */
    double seconds;
} Histogram;

static unsigned place_of(double seconds) {
    if (!(seconds < MOST)) return LAST;
    if (!(seconds > 0.0)) return 0;
    uint32_t units = (uint32_t)(seconds * UNITS);
    if (units < 16) return units;
    unsigned octave = 28 - (unsigned)__builtin_clz(units);
    return 8 * octave + (units >> octave);
}

static PyObject *count(Histogram *self, PyObject *took) {
    double seconds = PyFloat_AsDouble(took);
    if (seconds == -1.0 && PyErr_Occurred()) return NULL;
    if (self->counts == NULL) {
        self->counts = PyMem_Calloc(LAST + 1, sizeof *self->counts);
        if (self->counts == NULL) return PyErr_NoMemory();
    }
    self->counts[place_of(seconds)]++;
    self->seconds += seconds;
    Py_RETURN_NONE;
}

static PyObject *told(Histogram *self, PyObject *ignored) {
    (void)ignored;
    PyObject *counts = PyDict_New();
    for (int place = 0; counts != NULL && self->counts != NULL && place <= LAST; place++) {
        if (self->counts[place] == 0) continue;
        PyObject *key = PyLong_FromLong(place);
        PyObject *value = PyLong_FromUnsignedLongLong(self->counts[place]);
        if (key == NULL || value == NULL || PyDict_SetItem(counts, key, value) < 0)
            Py_CLEAR(counts);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return counts == NULL ? NULL : Py_BuildValue("Nd", counts, self->seconds);
}

static void histogram_dealloc(Histogram *self) {
    PyMem_Free(self->counts);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef histogram_methods[] = {
    {"count", (PyCFunction)count, METH_O, NULL},
    {"told", (PyCFunction)told, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Without garbage collection: it refers to nothing. */
static PyTypeObject histogram_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "proxy._latency.Histogram",
    .tp_basicsize = sizeof(Histogram),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)histogram_dealloc,
    .tp_methods = histogram_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "proxy._latency", .m_size = -1,
};

PyMODINIT_FUNC PyInit__latency(void) {
    if (PyType_Ready(&histogram_type) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddObjectRef(made, "Histogram", (PyObject *)&histogram_type) < 0)
        Py_CLEAR(made);
    return made;
}
