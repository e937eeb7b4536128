"""What every other part uses: errors, settings, paths, tables, log, shutdown."""
