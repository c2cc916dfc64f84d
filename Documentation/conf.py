# SPDX-License-Identifier: GPL-2.0
project = "kvm-aperfmperf"
html_title = "Guest APERF/MPERF without exits"
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
