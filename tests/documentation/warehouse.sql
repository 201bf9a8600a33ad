-- The tables that README.md and docs/ speak of.
CREATE DATABASE shop;
CREATE TABLE shop.sales (product STRING, price DECIMAL(10, 2)) PARTITIONED BY (day STRING);
INSERT INTO shop.sales VALUES ('pen', 1.50, '2026-01-01');
CREATE TABLE shop.revenue (product STRING, revenue DECIMAL(20, 2)) PARTITIONED BY (day STRING);

CREATE DATABASE sales;
CREATE TABLE sales.orders (id BIGINT, day STRING, region STRING, price DECIMAL(10, 2), amount DECIMAL(10, 2));
INSERT INTO sales.orders VALUES (1, '2026-01-01', 'north', 1.50, 3.00), (2, '2026-01-01', 'south', 2.25, 2.25);
CREATE TABLE sales.returns (id BIGINT, day STRING, region STRING, price DECIMAL(10, 2), amount DECIMAL(10, 2));
CREATE TABLE sales.daily (day STRING, region STRING, amount DECIMAL(20, 2));

CREATE TABLE orders (id BIGINT, day STRING);
INSERT INTO orders VALUES (1, '2026-01-01');
CREATE TABLE returns (id BIGINT, day STRING);
CREATE TABLE daily (id BIGINT, day STRING)
