#include "appraise/when.h"

#include <stdio.h>
#include <time.h>

/* `n` digits at *s, which moves behind them; -1 when there are others. */
static int digits(const char **s, int n)
{
    int v = 0;

    for (; n; n--, (*s)++) {
        if (**s < '0' || **s > '9') {
            return -1;
        }
        v = v * 10 + (**s - '0');
    }
    return v;
}

static int one_of(const char **s, const char *of)
{
    for (; *of; of++) {
        if (**s == *of) {
            (*s)++;
            return 1;
        }
    }
    return 0;
}

static int read_date(const char **s, struct tm *tm)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year = digits(s, 4), ok = year >= 1 && one_of(s, "-");
    int month = ok ? digits(s, 2) : -1;

    if (month < 1 || month > 12 || !one_of(s, "-")) {
        return -1;
    }
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    int day = digits(s, 2);
    if (day < 1 || day > days[month - 1] + (month == 2 && leap)) {
        return -1;
    }
    tm->tm_year = year - 1900;
    tm->tm_mon = month - 1;
    tm->tm_mday = day;
    return 0;
}

static int read_clock(const char **s, struct tm *tm, int *ret_ms)
{
    int hour = digits(s, 2), ok = hour >= 0 && hour < 24 && one_of(s, ":");
    int minute = ok ? digits(s, 2) : -1, second;

    if (minute < 0 || minute > 59 || !one_of(s, ":")) {
        return -1;
    }
    second = digits(s, 2);
    if (second < 0 || second > 60) {
        return -1;
    }
    tm->tm_hour = hour;
    tm->tm_min = minute;
    tm->tm_sec = second == 60 ? 59 : second;
    *ret_ms = 0;
    if (one_of(s, ".")) {
        int scale = 100, n = 0;
        for (int d; n < 18 && (d = digits(s, 1)) >= 0; n++, scale /= 10) {
            *ret_ms += d * scale;
        }
        return n && (**s < '0' || **s > '9') ? 0 : -1;
    }
    return 0;
}

static int read_offset(const char **s, int64_t *ret_ms)
{
    int sign = **s == '-' ? -1 : 1;

    *ret_ms = 0;
    if (one_of(s, "Zz")) {
        return 0;
    }
    if (!one_of(s, "+-")) {
        return -1;
    }
    int hour = digits(s, 2), ok = hour >= 0 && hour < 24 && one_of(s, ":");
    int minute = ok ? digits(s, 2) : -1;
    if (minute < 0 || minute > 59) {
        return -1;
    }
    *ret_ms = (int64_t)sign * (hour * 60 + minute) * 60000;
    return 0;
}

int rfc3339_ms(const char *text, int64_t *ret_ms)
{
    struct tm tm = {0};
    int64_t offset_ms;
    int ms;

    if (read_date(&text, &tm) || !one_of(&text, "Tt ") || read_clock(&text, &tm, &ms) ||
        read_offset(&text, &offset_ms) || *text) {
        return -1;
    }
    *ret_ms = (int64_t)timegm(&tm) * 1000 + ms - offset_ms;
    return 0;
}

void rfc3339_utc(int64_t ms, char ret[32])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;

    if (!gmtime_r(&s, &tm) || !strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm)) {
        snprintf(ret, 32, "an impossible time");
    }
}
