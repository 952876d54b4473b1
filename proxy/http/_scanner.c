/* Field blocks of heads in one pass: checked, told apart by kind, and serialised (RFC 9112 section 5).
 *
 * The reference is proxy/http/scanner.py: for every block both give the same result or raise the
 * same error, which tests/property/test_scanner.py proves. Rules about names live in Python alone
 * (Kinds.of): what it has said of a name is kept in a table here.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define NAME_MOST 40   /* Bytes of a name that is kept; longer ones are asked about each time. */
#define SLOTS 1024     /* A power of two. */
#define FULL 512       /* Names that are kept; with one more all are forgotten: 48 KiB at most. */

typedef struct {
    uint8_t size; /* 0 = free */
    uint8_t kind;
    uint8_t name[NAME_MOST]; /* in lower case */
} Slot;

typedef struct {
    PyObject_HEAD
    PyObject *of;       /* name in lower case -> kind */
    PyObject *too_many; /* the class of the error for more lines than allowed */
    uint32_t used;
    Slot slots[SLOTS];
} Scanner;

enum { PLAIN = 0, CLAIM = 14, UNDERSCORE = 15 }; /* proxy/http/fields.py */

/* Bytes of a name in lower case; 0 = no name has it (RFC 9110 section 5.6.2). */
static uint8_t lower_of[256];
/* Whether a value may hold a byte (RFC 9110 section 5.5, with obs-text). */
static uint8_t in_value[256];

static void fill_tables(void) {
    for (const char *c = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"; *c; c++)
        lower_of[(uint8_t)*c] = (uint8_t)*c;
    for (int c = 'A'; c <= 'Z'; c++) lower_of[c] = (uint8_t)(c + 32);
    for (int c = 0x20; c < 0x100; c++) in_value[c] = c != 0x7f;
    in_value['\t'] = 1;
}

/* Where a value ends that goes on here: at the first byte that none may hold. */
static const uint8_t *value_end(const uint8_t *at, const uint8_t *end) {
    const uint64_t ones = ~(uint64_t)0 / 255;
    uint64_t eight;
    while (end - at >= 8) { /* None of eight is below a space, or DEL. */
        memcpy(&eight, at, 8);
        uint64_t del = eight ^ ones * 0x7f;
        if ((((eight - ones * 0x20) & ~eight) | ((del - ones) & ~del)) & ones * 0x80) break;
        at += 8;
    }
    while (at < end && in_value[*at]) at++;
    return at;
}

static void forget_all(Scanner *self) {
    memset(self->slots, 0, sizeof self->slots);
    self->used = 0;
}

/* The kind of a name, or -1 with an error set. */
static int ask(Scanner *self, const uint8_t *lower, Py_ssize_t size) {
    PyObject *name = PyBytes_FromStringAndSize((const char *)lower, size);
    if (name == NULL) return -1;
    PyObject *said = PyObject_CallOneArg(self->of, name);
    Py_DECREF(name);
    if (said == NULL) return -1;
    long kind = PyLong_AsLong(said);
    Py_DECREF(said);
    if (kind < 0 || kind > 255) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "no kind of a field");
        return -1;
    }
    return (int)kind;
}

static int kind_of(Scanner *self, const uint8_t *lower, Py_ssize_t size, uint32_t hash) {
    uint32_t at = hash & (SLOTS - 1);
    while (self->slots[at].size) { /* At most FULL + 1 steps: half of all are free. */
        if (self->slots[at].size == size && !memcmp(self->slots[at].name, lower, (size_t)size))
            return self->slots[at].kind;
        at = (at + 1) & (SLOTS - 1);
    }
    int kind = ask(self, lower, size);
    if (kind < 0) return -1;
    /* Python ran: another call may have filled slots, so the place is looked for anew. */
    if (self->used >= FULL) forget_all(self);
    at = hash & (SLOTS - 1);
    while (self->slots[at].size) at = (at + 1) & (SLOTS - 1);
    self->slots[at].size = (uint8_t)size;
    self->slots[at].kind = (uint8_t)kind;
    memcpy(self->slots[at].name, lower, (size_t)size);
    self->used++;
    return kind;
}

/* A name that is longer than what is kept. */
static int kind_of_long(Scanner *self, const uint8_t *name, Py_ssize_t size) {
    uint8_t *lower = PyMem_Malloc((size_t)size);
    if (lower == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) lower[i] = lower_of[name[i]];
    int kind = ask(self, lower, size);
    PyMem_Free(lower);
    return kind;
}

static int add_special(PyObject *special, int kind, const uint8_t *name, Py_ssize_t name_size,
                       const uint8_t *value, Py_ssize_t value_size) {
    PyObject *text;
    if (kind == UNDERSCORE) {
        text = PyBytes_FromStringAndSize((const char *)name, name_size);
    } else if (kind == CLAIM) {
        text = PyBytes_FromStringAndSize(NULL, name_size + 2 + value_size);
        if (text != NULL) {
            char *to = PyBytes_AS_STRING(text);
            memcpy(to, name, (size_t)name_size);
            memcpy(to + name_size, ": ", 2);
            memcpy(to + name_size + 2, value, (size_t)value_size);
        }
    } else {
        text = PyBytes_FromStringAndSize((const char *)value, value_size);
    }
    if (text == NULL) return -1;
    PyObject *number = PyLong_FromLong(kind);
    PyObject *field = number == NULL ? NULL : PyTuple_Pack(2, number, text);
    Py_XDECREF(number);
    Py_DECREF(text);
    if (field == NULL) return -1;
    int failed = PyList_Append(special, field);
    Py_DECREF(field);
    return failed;
}

/* Lines that end in CR LF, from here to the end of the block. */
static Py_ssize_t lines_in(const uint8_t *at, const uint8_t *end) {
    Py_ssize_t lines = 0;
    while ((at = memchr(at, '\r', (size_t)(end - at))) != NULL && at + 1 < end) {
        if (at[1] == '\n') lines++;
        at++;
    }
    return lines;
}

static PyObject *scan(Scanner *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "scan(block, most)");
        return NULL;
    }
    Py_ssize_t most = PyLong_AsSsize_t(args[1]);
    if (most == -1 && PyErr_Occurred()) return NULL;
    const uint8_t *block = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    const uint8_t *end = block + PyBytes_GET_SIZE(args[0]), *at = block;
    Py_ssize_t fields = 0;
    const char *wrong = NULL;
    /* "a:" CR LF becomes "a: " CR LF: a quarter more at most. */
    PyObject *plain =
        PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(args[0]) + PyBytes_GET_SIZE(args[0]) / 4);
    PyObject *special = PyList_New(0);
    if (plain == NULL || special == NULL) goto failed;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(plain);

    /* The last line, the empty one, is no field. */
    while (!(end - at == 2 && at[0] == '\r' && at[1] == '\n')) {
        uint8_t lower[NAME_MOST];
        uint32_t hash = 2166136261u; /* FNV-1a */
        const uint8_t *name = at;
        uint8_t c;
        while (at < end && (c = lower_of[*at]) != 0) {
            if (at - name < NAME_MOST) lower[at - name] = c;
            hash = (hash ^ c) * 16777619u;
            at++;
        }
        Py_ssize_t name_size = at - name;
        if (at == end) {
            wrong = "the block does not end in an empty line";
            break;
        }
        if (*at != ':' || name_size == 0) {
            /* A line that is a name alone lacks its colon; any other has a bad name. */
            wrong = name_size && *at == '\r' && at + 1 < end && at[1] == '\n'
                        ? "a field line without a colon, or with bytes no value has"
                        : "a field name is empty, or holds bytes that no name has";
            break;
        }
        at++;
        while (at < end && (*at == ' ' || *at == '\t')) at++;
        const uint8_t *value = at;
        at = value_end(at, end);
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') {
            wrong = "a field line without a colon, or with bytes no value has";
            break;
        }
        const uint8_t *stop = at;
        while (stop > value && (stop[-1] == ' ' || stop[-1] == '\t')) stop--;
        at += 2;
        if (++fields > most) goto too_many;
        int kind = name_size <= NAME_MOST ? kind_of(self, lower, name_size, hash)
                                          : kind_of_long(self, name, name_size);
        if (kind < 0) goto failed;
        if (kind == PLAIN) {
            memcpy(to, name, (size_t)name_size);
            to += name_size;
            *to++ = ':';
            *to++ = ' ';
            memcpy(to, value, (size_t)(stop - value));
            to += stop - value;
            *to++ = '\r';
            *to++ = '\n';
        } else if (add_special(special, kind, name, name_size, value, stop - value) < 0) {
            goto failed;
        }
    }
    if (wrong != NULL) {
        /* That there are too many counts more than what is wrong with one. */
        if (fields + lines_in(at, end) - 1 > most) goto too_many;
        PyErr_SetString(PyExc_ValueError, wrong);
        goto failed;
    }
    if (_PyBytes_Resize(&plain, (Py_ssize_t)(to - (uint8_t *)PyBytes_AS_STRING(plain))) < 0)
        goto failed;
    PyObject *number = PyLong_FromSsize_t(fields);
    if (number == NULL) goto failed;
    PyObject *result = PyTuple_Pack(3, plain, special, number);
    Py_DECREF(number);
    Py_DECREF(plain);
    Py_DECREF(special);
    return result;

too_many:
    PyErr_SetNone(self->too_many);
failed:
    Py_XDECREF(plain);
    Py_XDECREF(special);
    return NULL;
}

static PyObject *forget(Scanner *self, PyObject *ignored) {
    (void)ignored;
    forget_all(self);
    Py_RETURN_NONE;
}

/* Where a head ends in data: its last four bytes begin at start or later; -1 = it is not there. */
static PyObject *find_end(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "find_end(data, start)");
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(args[1]);
    if (start == -1 && PyErr_Occurred()) return NULL;
    const char *data = PyBytes_AS_STRING(args[0]), *end = data + PyBytes_GET_SIZE(args[0]);
    const char *at = data + (start < 0 ? 0 : start);
    while (end - at >= 4 && (at = memchr(at, '\r', (size_t)(end - at - 3))) != NULL) {
        if (!memcmp(at, "\r\n\r\n", 4)) return PyLong_FromSsize_t(at - data);
        at++;
    }
    return PyLong_FromLong(-1);
}

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *of, *too_many;
    static char *names[] = {"of", "too_many", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO", names, &of, &too_many)) return NULL;
    Scanner *self = (Scanner *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->of = Py_NewRef(of);
    self->too_many = Py_NewRef(too_many);
    return (PyObject *)self;
}

static void scanner_dealloc(Scanner *self) {
    Py_CLEAR(self->of);
    Py_CLEAR(self->too_many);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef scanner_methods[] = {
    {"scan", (PyCFunction)(void (*)(void))scan, METH_FASTCALL, NULL},
    {"forget", (PyCFunction)forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef functions[] = {
    {"find_end", (PyCFunction)(void (*)(void))find_end, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

/* Without garbage collection: a scanner lives as long as its process. */
static PyTypeObject scanner_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "proxy.http._scanner.Scanner",
    .tp_basicsize = sizeof(Scanner),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = scanner_new,
    .tp_dealloc = (destructor)scanner_dealloc,
    .tp_methods = scanner_methods,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "proxy.http._scanner", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC PyInit__scanner(void) {
    fill_tables();
    if (PyType_Ready(&scanner_type) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddObjectRef(made, "Scanner", (PyObject *)&scanner_type) < 0)
        Py_CLEAR(made);
    return made;
}
