#!/usr/bin/awk -f
# What examples/admissions/analyse.sh must compute, said in another way.
BEGIN { FS = "," }
NR > 1 { count[$6] = count[$6] + 1; total[$6] = total[$6] + $8 }
END { for (group in count) printf "%s,%d,%.2f\n", group, count[group], total[group] / count[group] }
