DROP TABLE source_bars;
