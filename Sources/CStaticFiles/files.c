#include "CStaticFiles.h"

// #embed is C23; this compiler has it in every mode.
#pragma clang diagnostic ignored "-Wc23-extensions"

static const unsigned char relay_js[] = {
#embed "../../clients/js/relay.js"
};
static const unsigned char index_html[] = {
#embed "../../clients/js/examples/index.html"
};
static const unsigned char chat_html[] = {
#embed "../../clients/js/examples/chat.html"
};
static const unsigned char chat_js[] = {
#embed "../../clients/js/examples/chat.js"
};
static const unsigned char style_css[] = {
#embed "../../clients/js/examples/style.css"
};

static const char html[] = "text/html; charset=utf-8";
static const char javascript[] = "text/javascript; charset=utf-8"; // RFC 9239.
static const char css[] = "text/css; charset=utf-8";

static const struct cstatic_file files[] = {
    {"/relay.js", javascript, relay_js, sizeof relay_js},
    {"/examples/", html, index_html, sizeof index_html},
    {"/examples/chat.html", html, chat_html, sizeof chat_html},
    {"/examples/chat.js", javascript, chat_js, sizeof chat_js},
    {"/examples/style.css", css, style_css, sizeof style_css},
};

const struct cstatic_file *cstatic_files(size_t *count)
{
    *count = sizeof files / sizeof files[0];
    return files;
}
