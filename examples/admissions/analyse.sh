#!/bin/sh
# The workload: admissions and mean stay per diagnosis group. Runs inside the sandbox, reads the
# decrypted table, writes the one declared output.
set -eu
{
    echo "group,admissions,mean_days"
    tail -n +2 /data/admissions | awk -F, '
        { n[$6]++; days[$6] += $8 }
        END { for (g in n) printf "%s,%d,%.2f\n", g, n[g], days[g] / n[g] }' | sort
} >/output/by-group.csv
